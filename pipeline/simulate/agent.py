"""The agent of a node: a Ray actor that runs the driver's loop over worker processes of its own.

It gets blocks of ids that are minutes of work, and answers each with one report. Deaths, time-outs and retries
are settled here. To the stage's driver an agent looks like a worker with several processes: the calls are those
of `SimulationActor`. Calls arrive in threads of Ray; everything else happens in the thread of the loop.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import SimpleQueue
from sysconfig import get_paths
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.simulate.actor import Report, WorkerSetup, die_with_parent, ignore_stop_signals
from pipeline.simulate.driver import Driver
from pipeline.simulate.note import NOTHING, Note, read_note, write_note
from pipeline.simulate.process_pool import ProcessPool
from pipeline.simulate.work import Work
from pipeline.store import Outcome, Rows, Schema, Spool


class _Closed(Exception):
    """The agent was told to end while its loop waited for the driver."""


@dataclass(eq=False)
class Order:
    """A block of ids from the driver, and what was settled of it since the last report."""

    ids: np.ndarray
    left: int  # ids without a durable row
    kept: list[np.ndarray] = field(default_factory=list)
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(len(Outcome), int))
    busy: float = 0.0
    asks: bool = False  # the rest waits for `open`

    def settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float) -> None:
        self.left -= len(ids)
        self.kept.append(ids)
        self.outcomes += outcomes
        self.busy += busy

    def __contains__(self, number: int) -> bool:
        return bool(self.ids[np.searchsorted(self.ids, number) % len(self.ids)] == number)

    def report(self) -> Report:
        """Return what was settled since the last report."""
        kept = np.concatenate([np.zeros(0, np.int64), *self.kept])
        report = Report(
            rows=len(kept),
            held=self.left if self.asks else 0,
            outcomes=tuple(self.outcomes.tolist()),
            busy=self.busy,
            kept=kept if self.left else None,
        )
        self.kept, self.outcomes, self.busy = [], np.zeros(len(Outcome), int), 0.0
        return report


class AgentWork(Work):
    """The ids of an agent's blocks; counts the seconds of each key for the next report."""

    def __init__(self, key_size: int) -> None:
        super().__init__(np.zeros(0, np.int64), key_size)
        self.learned = (0, 0.0)  # keys, seconds

    def learn(self, keys: int, seconds: float) -> None:
        super().learn(keys, seconds)
        self.learned = (self.learned[0] + keys, self.learned[1] + seconds)


class AgentSession:
    """What the loop knows of the store: where its workers write, as soon as the driver has said it."""

    def __init__(self, agent: SimulationAgent) -> None:
        self.agent = agent
        self.schema: Schema | None = None
        self.rows_per_shard = 1
        self.writer = SimpleNamespace(spool_directory=None)
        self.asked: Schema | None = None
        self.example: Rows | None = None
        self._spool: Spool | None = None

    @property
    def is_open(self) -> bool:
        return self.writer.spool_directory is not None

    def knows(self, schema: Schema | None) -> bool:
        """Whether the driver has approved of outputs, or of there being none yet."""
        return self.is_open and (schema is None or self.schema is not None)

    def open(self, directory: Path, schema: Schema | None, rows_per_shard: int) -> None:
        self.schema, self.rows_per_shard = schema, rows_per_shard
        self.writer.spool_directory = directory

    def record(self, rows: Rows) -> None:
        """Keep rows of simulations whose worker died."""
        self.agent.ask(None)  # where they go
        if self._spool is None:
            directory, name = self.writer.spool_directory, f"{self.agent.name}-agent"
            self._spool = Spool(directory, name, self.schema, self.rows_per_shard)
        self._spool.schema = self.schema
        self._spool.append(rows)

    def publish(self) -> None:
        """The driver publishes the shards."""

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()


class AgentLoop(Driver):
    """The driver's loop over the processes of an agent, which ends when it is told to."""

    def __init__(self, agent: SimulationAgent, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.agent = agent

    def _unfinished(self) -> bool:
        return True

    def _receive(self) -> None:
        super()._receive()
        self.agent.accept(self.work)

    def _hand_out(self) -> None:
        session = self.session
        if self._probing and not self.blocks and session.schema is not None:
            self._probing, self._schema = False, session.schema
        if not self.agent.started and any(worker.started for worker in self.pool.workers):
            self.agent.begin()
        super()._hand_out()

    def _create(self) -> None:
        self.agent.ask(self._schema)
        self._schema = self.session.schema

    def _settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float = 0.0) -> None:
        super()._settle(ids, outcomes, busy)
        self.agent.settle(ids, outcomes, busy)

    def _check_and_publish(self) -> None:
        """Note how many rows are durable, and the simulation that has run longest."""
        notes = [read_note(self.pool.note(worker)) for worker in self.pool.workers]
        running = [note for note in notes if note.position != NOTHING]
        longest = min(running, key=lambda note: note.began, default=Note())
        self.agent.note(Note(NOTHING, self.rows, longest.position, longest.key, longest.began))


class SimulationAgent:
    """Simulates with processes of its own; if it is killed the simulations in flight are lost and nothing else."""

    def __init__(self, name: str, processes: int, cpus: float) -> None:
        self.name, self.processes, self.cpus = name, processes, cpus
        self.started = False
        self._changed = threading.Condition()
        self._orders: dict[int, Order] = {}
        self._arrived: SimpleQueue[Order] = SimpleQueue()
        self._session = AgentSession(self)
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
        numbers = np.asarray(ids, np.int64)
        order = Order(numbers, len(numbers))
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
        return self._answer(*waiting[0]) if waiting else Report()

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

    def _answer(self, block: int, order: Order) -> Report:
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
        except _Closed:
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
        known = tuple(get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
        path = os.pathsep.join(p for p in sys.path if p and not p.startswith(known))
        pool = ProcessPool(setup, self.processes, self.cpus, f"{self.name}-", self._bell, path)
        try:
            spec = setup.load()
            self._work = AgentWork(spec.key_size)
            parts = (spec, self._session, pool, self._work, lambda: True, self._stop)
            loop = AgentLoop(self, *parts, self._approve)
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
                raise _Closed

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
