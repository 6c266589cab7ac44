"""The driver: hands out blocks of ids, counts the rows that are kept, and replaces workers that die."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.guard import DIED
from pipeline.errors import PipelineError, UsageError
from pipeline.progress import Progress, duration
from pipeline.simulate import sources
from pipeline.simulate.actor import Report
from pipeline.simulate.calls import CallResult, Worker, Workers
from pipeline.simulate.death import (
    FAILED_STARTS,
    Death,
    crash_reason,
    read_death,
    simulator_part,
)
from pipeline.simulate.note import NOTHING, Note, read_note
from pipeline.simulate.spec import SimulationSpec
from pipeline.simulate.store_session import StoreSession
from pipeline.simulate.work import Work
from pipeline.stop import Stop
from pipeline.store import Outcome, Rows, Schema
from pipeline.usage import Usage

PROBES = 3  # simulations that a worker runs before anything is written
PROBE_SECONDS = 1.0  # a worker runs no second one if the first took longer
POLL = 0.2  # seconds
CHECK_EVERY = 2.0  # seconds between two checks of Ray, of finished shards and of stragglers
LOG_EVERY = 5.0  # seconds between two events for the journal
QUICK = 2.0  # seconds that simulations in flight get when a stop is requested
WAIT = 600.0  # seconds until the first worker must have started
STRAGGLER = 10.0  # a simulation that takes this many times the mean is shown


class Driver:
    """Simulates the ids of some work with a pool of workers; `session` keeps the rows.

    Arguments:
        spec: what all simulations have in common.
        session: the store.
        pool: the workers.
        work: the ids.
        alive: asked regularly; False where Ray has died. It may raise a `PipelineError` of its own.
        stop: polled; a request ends `run` with everything finished kept.
        approve: is called with the first outputs before they are kept; a `UsageError` ends `run`.
    """

    def __init__(
        self,
        spec: SimulationSpec,
        session: StoreSession,
        pool: Workers,
        work: Work,
        alive: Callable[[], bool],
        stop: Stop,
        approve: Callable[[Rows], None] = lambda rows: None,
    ) -> None:
        self.spec, self.session, self.pool, self.work = spec, session, pool, work
        self.alive, self.stop, self.approve = alive, stop, approve
        self.blocks: dict[int, np.ndarray] = {}  # handed out and not answered
        self.outcomes = np.zeros(len(Outcome), int)
        self.busy = 0.0
        self.began: float | None = None
        self._schema: Schema | None = session.schema
        self._probing = self._schema is None
        self._any_outcome = False  # whether the outcome of any simulation is known
        self._deaths: Counter[tuple[int, Death]] = Counter()
        self._failed_starts = 0
        self._next_block = 0
        self._created = time.monotonic()
        self._straggler = ""
        self._ahead = 0  # rows that are durable and not reported yet, as far as known

    @property
    def rows(self) -> int:
        """Rows made durable by this driver."""
        return int(self.outcomes.sum())

    @property
    def seconds(self) -> float:
        """Wall seconds since the first simulation was handed out."""
        return time.monotonic() - self.began if self.began else 0.0

    def run(self, progress: Progress, record: Callable[[dict[str, Any]], None]) -> None:
        """Simulate until nothing is pending or a stop is requested.

        Raises:
            UsageError: outputs differ between simulations, or `approve` refused them.
            PipelineError: Ray died, or workers die before they finish a simulation, or cannot start.
        """
        checked = logged = time.monotonic()
        start, usage = progress.done, Usage()
        while not self.stop.requested and self._unfinished():
            self._receive()
            self._hand_out()
            now = time.monotonic()
            if now - checked > CHECK_EVERY or now - logged > LOG_EVERY:
                checked = now
                self._check_and_publish()
            if now - logged > LOG_EVERY:
                logged = now
                bad = self.rows - int(self.outcomes[Outcome.OK])
                counts = {
                    "done": start + self.rows + self._ahead,
                    "failed": bad,
                    "rate": progress.rate,
                }
                record({**counts, "usage": usage()})
            progress.update(start + self.rows + self._ahead, self._info())
        self._receive_last()
        progress.update(start + self.rows, self._info())

    def _unfinished(self) -> bool:
        return self.work.more() or bool(self.blocks)

    # --- handing out -------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Send every worker that is ready as many blocks as it should have."""
        if self._probing:
            self._end_probing()
        processes = sum(worker.processes for worker in self.pool.workers)
        for worker in self.pool.workers:
            if not worker.started:
                continue
            if self._probing:
                self._probe(worker)
                continue
            if not worker.opened:
                if worker.calls:  # only its answer says which rows it holds, and of what schema
                    continue
                self._open(worker)
            while self._wants(worker) and self.work.more():
                size = self.work.size(processes, self.session.rows_per_shard, worker.processes)
                block = self._take_block(size)
                worker.send("run", block, compact(self.blocks[block]), block=block)

    def _wants(self, worker: Worker) -> bool:
        """Whether a worker should have another block: each of its processes needs a simulation."""
        blocks = worker.blocks
        if len(blocks) < (self.work.depth() if self._schema else 1):
            return True
        if worker.processes == 1 or self._schema is None:
            return False
        held = sum(len(self.blocks[block]) for block in blocks)
        return held < worker.processes * self.spec.key_size

    def _take_block(self, keys: int) -> int:
        ids = self.work.take(keys)
        number, self._next_block = self._next_block, self._next_block + 1
        self.blocks[number] = ids
        self.began = self.began or time.monotonic()
        return number

    def _probe(self, worker: Worker) -> None:
        """Give a worker its first simulations, whose rows it holds back until the outputs are known."""
        if worker.holding != NOTHING or not len(self.work):
            return
        keys = max(worker.processes, 1 if self.blocks else PROBES)
        block = worker.holding = self._take_block(keys)
        worker.send("probe", block, compact(self.blocks[block]), PROBE_SECONDS, block=block)

    def _end_probing(self) -> None:
        """Make the store when the first outputs agree, or when no worker's first simulation has any.

        Quick simulations are waited for, so that outputs which differ are found before anything is written.
        """
        probing = any(
            call.method == "probe" for worker in self.pool.workers for call in worker.calls.values()
        )
        may_wait = self._schema is None or self.seconds < PROBE_SECONDS
        if self._any_outcome and not (probing and may_wait):
            self._probing = False
            self._create()

    def _create(self) -> None:
        """Make the store, or give it its schema, before its first row."""
        self._check_alive()
        self.session.create(self._schema)
        sources.record(self.session.path, self.spec.simulator)

    def _open(self, worker: Worker) -> None:
        """Tell a worker where rows go; it answers which of the rows that it held are kept now."""
        worker.opened = True
        directory = self.session.writer.spool_directory
        worker.send(
            "open", directory, self._schema, self.session.rows_per_shard, block=worker.holding
        )

    # --- receiving ---------------------------------------------------------------------------

    def _receive(self) -> None:
        """Handle the answers that are there."""
        for answer in self.pool.collect(POLL):
            self._handle(answer)

    def _receive_last(self) -> None:
        """Wait a moment for the answers of simulations in flight."""
        deadline = time.monotonic() + QUICK
        while self.blocks and time.monotonic() < deadline:
            self._receive()

    def _handle(self, answer: CallResult) -> None:
        worker, block, report = answer.worker, answer.call.block, answer.result
        if answer.lost:
            self._worker_lost(worker)
        elif answer.call.method in ("probe", "run", "open") and block != NOTHING:
            if answer.call.method != "open":
                self._any_outcome = True
                self.work.learn(report.keys, report.seconds)
            self._complete(block, report)
            worker.holding = block if report.held else NOTHING
            self._learn_schema(report.schema, report.example)

    def _complete(self, block: int, report: Report) -> None:
        """Count the rows kept, leave those held back in the block, and give back the rest."""
        ids = self.blocks.pop(block)
        if report.kept is not None:
            ids = np.concatenate([report.kept, ids[~np.isin(ids, report.kept)]])
        kept, held = report.rows, report.rows + report.held
        if report.held:
            self.blocks[block] = ids[kept:held]
        self.work.give_back(ids[held:])
        self._settle(ids[:kept], np.array(report.outcomes), report.busy)
        self._failed_starts = 0

    def _settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float = 0.0) -> None:
        """Count rows that are durable."""
        self.work.keep(ids)
        self.outcomes += outcomes
        self.busy += busy

    def _learn_schema(self, schema: Schema | None, example: Rows | None) -> None:
        """Learn the outputs' names, shapes and dtypes from the first rows that have any, before they are kept."""
        if schema is None or schema == self._schema:
            return
        if self._schema is not None:
            raise UsageError(
                f"simulator {self.spec.simulator.name!r}: outputs of one simulation are "
                f"{dict(schema.arrays)}, of another {dict(self._schema.arrays)}; "
                "if lengths vary, declare the outputs: ragged=[...]"
            )
        self._schema = schema
        if example is not None:
            self.approve(example)
        if not self._probing:
            self._create()
            for worker in self.pool.workers:
                worker.opened = False

    # --- lost workers ------------------------------------------------------------------------

    def _worker_lost(self, worker: Worker) -> None:
        """Give back the ids whose rows a dead worker had not kept, except those that get a row here."""
        note = read_note(self.pool.note(worker))
        self._failed_starts += 1
        for block in worker.blocks:
            ids = self.blocks.pop(block)
            if block < note.block:  # finished, but the answer was lost
                kept = len(ids)
            elif block == note.block:
                kept = note.kept
                ids = self._attribute_failure(worker, note, ids)
            else:
                kept = 0
            self._failed_starts = 0 if kept else self._failed_starts
            # their true outcomes are in the store
            self._settle(ids[:kept], counted(Outcome.OK, kept))
            self.work.give_back(ids[kept:])
        self._check_starts()

    def _check_starts(self) -> None:
        if self._failed_starts > FAILED_STARTS:
            raise PipelineError(
                f"{FAILED_STARTS} workers in a row died before they finished one simulation: out of memory? "
                "Ask for more with simulate.memory, or for fewer simulate.workers"
            )

    def _attribute_failure(self, worker: Worker, note: Note, ids: np.ndarray) -> np.ndarray:
        """Return the block's ids without those that get a row here, because they ended the worker."""
        if note.position == NOTHING:
            return ids
        return self._blame(note, *read_death(self.pool.note(worker)), ids)

    def _blame(self, note: Note, death: Death, dump: str, ids: np.ndarray) -> np.ndarray:
        """Count a death for the simulation in flight; return the ids without those that get a row for it."""
        self._deaths[note.key, death] += 1
        times = self._deaths[note.key, death]
        outcome = death.outcome(times)
        here = ids // self.spec.key_size == note.key
        if outcome is None or not here.any():
            return ids
        affected = ids[here]
        theta, message = self.spec.theta(affected), self._message(death, dump, times)
        trace, seconds = simulator_part(dump), max(0.0, time.time() - note.began)
        self.session.record(self.spec.failed(affected, theta, outcome, message, trace, seconds))
        self._settle(affected, counted(outcome, len(affected)))
        self._any_outcome = True
        self._failed_starts = 0
        return ids[~here]

    def _message(self, death: Death, dump: str, times: int) -> str:
        """Return the reason in the row of a simulation that ended its process."""
        if death is Death.TIMEOUT:
            return f"no result within {duration(self.spec.timeout or 0.0)}: its process was ended"
        if death is Death.CRASH:
            return f"its process crashed {times} times: {crash_reason(dump)}"
        return f"its process was killed {times} times: out of memory?"

    # --- checks and progress -----------------------------------------------------------------

    def _check_and_publish(self) -> None:
        """Publish finished shards; fail rather than hang when Ray is gone or no worker can start."""
        self._check_alive()
        self.session.publish()
        self._straggler = self._find_straggler()
        waited = time.monotonic() - self._created
        if not self._next_block and waited > WAIT:
            raise PipelineError(
                f"no worker could start in {duration(waited)}: is the cluster busy with other work?"
            )

    def _check_alive(self) -> None:
        if not self.alive():
            raise PipelineError(DIED)

    def _info(self) -> str:
        """Return what is shown beside the count: failures, workers that are starting, a straggler."""
        parts = []
        bad = self.rows - int(self.outcomes[Outcome.OK])
        if bad:
            parts.append(f"{bad} not ok")
        workers = self.pool.workers
        absent = sum(worker.processes for worker in workers if not worker.started)
        if absent:
            there = sum(worker.processes for worker in workers)
            parts.append(f"{absent} of {there} workers starting")
        return ", ".join([*parts, *([self._straggler] if self._straggler else [])])

    def _find_straggler(self) -> str:
        """Name the simulation that has run longest, if that is much longer than the mean."""
        mean = self.work.seconds
        longest, where = 0.0, ""
        for worker in self.pool.workers:
            note = read_note(self.pool.note(worker))
            ids = self.blocks.get(note.block)
            running = time.time() - note.began
            if ids is not None and note.position != NOTHING and running > longest:
                longest, where = running, f"simulation {ids[note.position]} runs for"
        if mean is None or longest < max(1.0, STRAGGLER * mean):
            return ""
        return f"{where} {duration(longest)}"


def counted(outcome: Outcome, number: int) -> np.ndarray:
    """Return counts by outcome."""
    return number * np.eye(len(Outcome), dtype=int)[outcome]


def compact(ids: np.ndarray) -> range | np.ndarray:
    """Return consecutive ids as a range, which is sent in a few bytes."""
    first, last = int(ids[0]), int(ids[-1])
    return range(first, last + 1) if last - first + 1 == len(ids) else ids
