"""The agent of a node: a Ray actor that runs the driver's loop over worker processes of its own.

It gets blocks of ids that are minutes of work, and answers each with one report. Deaths, time-outs and retries
are settled here. To the stage's driver an agent looks like a worker with several processes: the calls are those
of `SimulationActor`. Calls arrive in threads of Ray; everything else happens in the thread of the loop.

This module imports little: the processes are started first, and load while `agent_loop` does.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from sysconfig import get_paths
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.simulate.children import die_with_parent, ignore_stop_signals
from pipeline.simulate.note import Note, write_note
from pipeline.simulate.spawn import POOL, spawn

if TYPE_CHECKING:
    import numpy as np

    from pipeline.simulate.actor import Report, WorkerSetup
    from pipeline.simulate.agent_loop import AgentWork, BlockOrder
    from pipeline.simulate.work import Work
    from pipeline.store import Rows, Schema


class SimulationAgent:
    """Simulates with processes of its own; if it is killed the simulations in flight are lost and nothing else."""

    def __init__(self, name: str, processes: int, cpus: float) -> None:
        self.name, self.processes, self.cpus = name, processes, cpus
        known = tuple(get_paths()[each] for each in ("stdlib", "platstdlib", "purelib", "platlib"))
        self._path = os.pathsep.join(p for p in sys.path if p and not p.startswith(known))
        names = [f"{name}-{number:05d}" for number in range(processes)]
        self._spawned = [spawn(POOL, each, cpus, self._path) for each in names]
        from pipeline.simulate import agent_loop

        self._parts: Any = agent_loop
        self.started = False
        self._changed = threading.Condition()
        self._orders: dict[int, BlockOrder] = {}
        self._arrived: SimpleQueue[BlockOrder] = SimpleQueue()
        self._session = agent_loop.AgentSession(self)
        self._work: AgentWork | None = None
        self._stop = SimpleNamespace(requested=False)
        self._ended = False
        self._error: Exception | None = None
        self._bell, self._button = Pipe(duplex=False)
        self._note = -1
        die_with_parent()
        with suppress(ValueError):  # not the main thread
            ignore_stop_signals()

    # --- calls of the driver -----------------------------------------------------------------

    def start(self, setup: WorkerSetup) -> None:
        """Start the processes, and return when the first has loaded the simulator.

        Raises:
            PipelineError: a process runs other code than the driver, or cannot load the simulator.
        """
        note = setup.folder / f"{self.name}.note"
        self._note = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._thread = threading.Thread(target=self._serve, args=(setup,), daemon=True)
        self._thread.start()
        self._await(lambda: self.started)

    def probe(self, block: int, ids: Sequence[int], seconds: float) -> Report:
        """Simulate the first ids, and hold rows back until `open`; see `SimulationActor.probe`."""
        return self.run(block, ids)

    def run(self, block: int, ids: Sequence[int]) -> Report:
        """Simulate a block; ends early at the first outputs when no schema is known, and at `stop`.

        Raises:
            UsageError: the outputs are not of the schema.
            PipelineError: the rows cannot be written, or workers die before they finish a simulation.
        """
        order: BlockOrder = self._parts.BlockOrder.of(ids)
        with self._changed:
            self._orders[block] = order
            self._arrived.put(order)
            self._button.send_bytes(b"1")
        return self._answer(block, order)

    def open(self, directory: Path, schema: Schema | None, rows_per_shard: int) -> Report:
        """Learn where rows go and what the outputs are; return what comes of the block that waited for it."""
        with self._changed:
            self._session.open(directory, schema, rows_per_shard)
            waiting = [(block, order) for block, order in self._orders.items() if order.asks]
            for _, order in waiting:
                order.asks = False
            self._changed.notify_all()
        return self._answer(*waiting[0]) if waiting else self._parts.Report()

    def stop(self) -> None:
        """End the loop: simulations in flight get a moment, then every block is answered."""
        with self._changed:
            self._stop.requested = True
            self._button.send_bytes(b"1")
            self._changed.notify_all()

    def close(self) -> None:
        """End the loop and release the spools, so that the driver can merge them."""
        self.stop()
        self._thread.join()

    def _answer(self, block: int, order: BlockOrder) -> Report:
        self._await(lambda: not order.left or order.asks)
        with self._changed:
            report = order.report()
            assert self._work is not None
            (keys, seconds), self._work.learned = self._work.learned, (0, 0.0)
            report = replace(report, keys=keys, seconds=seconds)
            if order.asks:
                return replace(report, schema=self._session.asked, example=self._session.example)
            del self._orders[block]
            return report

    def _await(self, done: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: done() or self._ended or self._error)
            if self._error:
                raise self._error

    # --- the loop ----------------------------------------------------------------------------

    def _serve(self, setup: WorkerSetup) -> None:
        """Run the loop; the processes end with this thread."""
        try:
            self._run(setup)
        except self._parts.Closed:
            pass
        except Exception as error:
            known = isinstance(error, PipelineError)
            self._error = error if known else PipelineError(f"an agent failed: {error!r}")
        with self._changed:
            self._ended = True
            for order in self._orders.values():
                order.asks = False
            self._changed.notify_all()

    def _run(self, setup: WorkerSetup) -> None:
        where = f"{self.name}-", self._bell, self._path, self._spawned
        pool = self._parts.ProcessPool(setup, self.processes, self.cpus, *where)
        try:
            spec = setup.load()
            self._work = self._parts.AgentWork(spec.key_size)
            given = (spec, self._session, pool, self._work, lambda: True, self._stop)
            loop = self._parts.AgentLoop(self, *given, self._approve)
            silent: Any = SimpleNamespace(done=0, rate=0.0, update=lambda done, info: None)
            loop.run(silent, lambda event: None)
        finally:
            pool.dismiss()
            self._session.close()

    def begin(self) -> None:
        """Tell `start` that a process has loaded the simulator."""
        with self._changed:
            self.started = True
            self._changed.notify_all()

    def _approve(self, example: Rows) -> None:
        self._session.example = example

    def accept(self, work: Work) -> None:
        """Put the ids of new blocks behind those that are pending."""
        while not self._arrived.empty():
            work.append(self._arrived.get().ids)

    def ask(self, schema: Schema | None) -> None:
        """Ask the driver about the outputs, and wait for its answer."""
        with self._changed:
            if not self._session.knows(schema):
                self._session.asked = schema
                for order in self._orders.values():
                    order.asks = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._session.knows(schema) or self._stop.requested)
            if not self._session.knows(schema):
                raise self._parts.Closed

    def settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float) -> None:
        """Count durable rows for the block that they belong to."""
        if not len(ids):
            return
        with self._changed:
            order = next(order for order in self._orders.values() if ids[0] in order)
            order.settle(ids, outcomes, busy)
            if not order.left:
                self._changed.notify_all()

    def note(self, note: Note) -> None:
        """Write what the driver may read while a block is at work."""
        write_note(self._note, note)
