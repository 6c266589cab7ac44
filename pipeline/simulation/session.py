"""One driver at work: hands out units, keeps count, and decides about every actor's death."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.guard import DIED
from pipeline.errors import PipelineError, UsageError
from pipeline.progress import Progress, duration
from pipeline.simulation.actor import Report
from pipeline.simulation.calls import Answer, Worker, Workers
from pipeline.simulation.ledger import Ledger
from pipeline.simulation.note import (
    NOTHING,
    Death,
    Note,
    crash_reason,
    read_death,
    read_note,
    simulator_part,
)
from pipeline.simulation.task import Simulation
from pipeline.simulation.work import Work
from pipeline.stop import Stop
from pipeline.store import Outcome, Schema

PROBES = 3  # simulations that one actor tries before anything is written
PROBE_SECONDS = 1.0  # it tries no second one if the first took longer
POLL = 0.2  # seconds
LOOK = 2.0  # seconds between two looks at Ray's health, the shards and the stragglers
LOG = 10.0  # seconds between two events for the journal
QUICK = 2.0  # seconds that simulations in flight get when a stop is requested
CRASHES = 2  # the same simulation may end its process so often before it counts as failed
KILLS = 10  # the same for a process killed from outside
STILLBORN = 20  # actors that may die in a row without one simulation kept
WAIT = 600.0  # seconds until the first actor must have started
STRAGGLER = 10.0  # times the mean that make a simulation worth naming


class Session:
    """Simulate the ids of some work with a crew of workers; `ledger` keeps the rows."""

    def __init__(
        self,
        simulation: Simulation,
        ledger: Ledger,
        crew: Workers,
        work: Work,
        alive: Callable[[], bool],
        stop: Stop,
    ) -> None:
        self.simulation, self.ledger, self.crew = simulation, ledger, crew
        self.alive, self.stop = alive, stop
        self.work = work
        self.units: dict[int, np.ndarray] = {}  # handed out and not answered
        self.outcomes = np.zeros(len(Outcome), int)
        self.busy = 0.0
        self.began: float | None = None
        self._schema: Schema | None = ledger.schema
        self._probing = self._schema is None
        self._decided = False  # whether any simulation has come to an end
        self._deaths: Counter[tuple[int, Death]] = Counter()
        self._stillborn = 0
        self._next_unit = 0
        self._created = time.monotonic()
        self._slow = ""

    @property
    def rows(self) -> int:
        """Rows made durable by this session."""
        return int(self.outcomes.sum())

    @property
    def seconds(self) -> float:
        """Wall seconds since the first simulation was handed out."""
        return time.monotonic() - self.began if self.began else 0.0

    def run(self, progress: Progress, log: Callable[[dict[str, Any]], None]) -> None:
        """Simulate until nothing is pending or a stop is requested."""
        looked = logged = time.monotonic()
        start = progress.done
        while not self.stop.requested and (self.work.more() or self.units):
            for answer in self.crew.collect(POLL):
                self._take(answer)
            self._feed()
            now = time.monotonic()
            if now - looked > LOOK:
                looked = now
                self._look()
            if now - logged > LOG:
                logged = now
                log({"done": start + self.rows, "rate": progress.rate})
            progress.update(start + self.rows, self._info())
        self._let_finish()
        progress.update(start + self.rows, self._info())

    def _let_finish(self) -> None:
        """Take what quick simulations in flight still give."""
        deadline = time.monotonic() + QUICK
        while self.units and time.monotonic() < deadline:
            for answer in self.crew.collect(POLL):
                self._take(answer)

    # --- handing out -------------------------------------------------------------------------

    def _feed(self) -> None:
        """Give every actor that is ready as much as it should have."""
        if self._probing:
            self._end_probing()
        for worker in self.crew.workers:
            if not worker.started:
                continue
            if self._probing:
                self._probe(worker)
                continue
            if not worker.opened:
                if worker.calls:  # only its answer says which rows it holds, and of what schema
                    continue
                self._open(worker)
            depth = self.work.depth() if self._schema else 1
            while len(worker.units) < depth and self.work.more():
                size = self.work.size(len(self.crew.workers), self.ledger.rows_per_shard)
                unit = self._unit(size)
                worker.send("run", unit, _compact(self.units[unit]), unit=unit)

    def _unit(self, keys: int) -> int:
        ids = self.work.take(keys)
        number, self._next_unit = self._next_unit, self._next_unit + 1
        self.units[number] = ids
        self.began = self.began or time.monotonic()
        return number

    def _probe(self, worker: Worker) -> None:
        """Give an actor its first simulations, to be held back until the outputs are known."""
        if worker.holding != NOTHING or not len(self.work):
            return
        unit = worker.holding = self._unit(1 if self.units else PROBES)
        worker.send("probe", unit, _compact(self.units[unit]), PROBE_SECONDS, unit=unit)

    def _end_probing(self) -> None:
        """Make the store when the first outputs agree, or when no actor's first simulation has any.

        Quick simulations are waited for, so that outputs which change are found before anything is written.
        """
        probing = any(
            call.method == "probe" for worker in self.crew.workers for call in worker.calls.values()
        )
        patient = self._schema is None or self.seconds < PROBE_SECONDS
        if self._decided and not (probing and patient):
            self._probing = False
            self.ledger.create(self._schema)

    def _open(self, worker: Worker) -> None:
        """Tell an actor where rows go; it answers for the ones it holds back."""
        worker.opened = True
        directory = self.ledger.writer.spool_directory
        worker.send(
            "open", directory, self._schema, self.ledger.rows_per_shard, unit=worker.holding
        )

    # --- taking back -------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        """Book what an actor answered."""
        worker, unit, report = answer.worker, answer.call.unit, answer.result
        if answer.lost:
            self._bury(worker)
        elif answer.call.method in ("probe", "run"):
            self._decided = True
            self.work.learn(report.keys, report.seconds)
            self._complete(unit, report)
            worker.holding = unit if report.held else NOTHING
            self._found(report.schema)
        elif answer.call.method == "open" and unit != NOTHING:
            worker.holding = NOTHING
            self._complete(unit, report)

    def _complete(self, unit: int, report: Report) -> None:
        """Book the rows kept, leave the unit those held back, and give back the rest."""
        ids = self.units.pop(unit)
        kept, held = report.rows, report.rows + report.held
        if report.held:
            self.units[unit] = ids[kept:held]
        self.work.give_back(ids[held:])
        self.work.keep(ids[:kept])
        self.outcomes += np.array(report.outcomes)
        self.busy += report.busy
        self._stillborn = 0

    def _found(self, schema: Schema | None) -> None:
        """Learn the outputs' names, shapes and dtypes from the first rows that have any."""
        if schema is None or schema == self._schema:
            return
        if self._schema is not None:
            raise UsageError(
                f"simulator {self.simulation.simulator.name!r}: outputs of one simulation are "
                f"{dict(schema.arrays)}, of another {dict(self._schema.arrays)}; "
                "if lengths vary, declare the outputs: ragged=[...]"
            )
        self._schema = schema
        if not self._probing:
            self.ledger.create(schema)
            for worker in self.crew.workers:
                worker.opened = False

    # --- deaths ------------------------------------------------------------------------------

    def _bury(self, worker: Worker) -> None:
        """Give back what a dead actor had not kept, and decide about the simulation that it died of."""
        note = read_note(self.crew.note(worker))
        self._stillborn += 1
        for unit in worker.units:
            ids = self.units.pop(unit)
            if unit < note.unit:  # finished, but the answer was lost
                kept = len(ids)
            elif unit == note.unit:
                kept = note.kept
                ids = self._judge(worker, note, ids)
            else:
                kept = 0
            self.outcomes[Outcome.OK] += kept  # how they ended, the store will tell
            self._stillborn = 0 if kept else self._stillborn
            self.work.keep(ids[:kept])
            self.work.give_back(ids[kept:])
        if self._stillborn > STILLBORN:
            raise PipelineError(
                f"{STILLBORN} workers in a row died before they finished one simulation: out of memory? "
                "Ask for more with simulate.memory, or for fewer simulate.workers"
            )

    def _judge(self, worker: Worker, note: Note, ids: np.ndarray) -> np.ndarray:
        """Return the unit's ids without those that get a row here, because they ended the actor."""
        if note.position == NOTHING:
            return ids
        keys = ids // self.simulation.block
        guilty = keys == keys[note.position]
        death, dump = read_death(self.crew.note(worker))
        self._deaths[int(keys[note.position]), death] += 1
        verdict = self._verdict(death, dump, self._deaths[int(keys[note.position]), death])
        if verdict is None:
            return ids
        outcome, message = verdict
        victims = ids[guilty]
        theta = self.simulation.theta(victims)
        trace, seconds = simulator_part(dump), max(0.0, time.time() - note.began)
        self.ledger.record(self.simulation.failed(victims, theta, outcome, message, trace, seconds))
        self.outcomes[outcome] += len(victims)
        self._decided = True
        self._stillborn = 0
        self.work.keep(victims)
        return ids[~guilty]

    def _verdict(self, death: Death, dump: str, times: int) -> tuple[Outcome, str] | None:
        """Return outcome and message of a simulation that ended its process, None to try again."""
        if death is Death.TIMEOUT:
            limit = duration(self.simulation.timeout or 0.0)
            return Outcome.TIMEOUT, f"no result within {limit}: its process was ended"
        if death is Death.CRASH and times >= CRASHES:
            return Outcome.FAILED, f"its process crashed {times} times: {crash_reason(dump)}"
        if death is Death.KILLED and times >= KILLS:
            return Outcome.FAILED, f"its process was killed {times} times: out of memory?"
        return None

    # --- looking -----------------------------------------------------------------------------

    def _look(self) -> None:
        """Publish, and fail rather than hang when Ray is gone or never gives us an actor."""
        if not self.alive():
            raise PipelineError(DIED)
        self.ledger.publish()
        self._slow = self._straggler()
        waited = time.monotonic() - self._created
        if not self._next_unit and waited > WAIT:
            raise PipelineError(
                f"no worker could start in {duration(waited)}: is the cluster busy with other work?"
            )

    def _info(self) -> str:
        """Return what is worth saying beside the count: failures, workers not there yet, a straggler."""
        parts = []
        bad = self.rows - int(self.outcomes[Outcome.OK])
        if bad:
            parts.append(f"{bad} not ok")
        absent = sum(not worker.started for worker in self.crew.workers)
        if absent:
            parts.append(f"{absent} of {len(self.crew.workers)} workers starting")
        return ", ".join([*parts, *([self._slow] if self._slow else [])])

    def _straggler(self) -> str:
        """Name the simulation that has run longest, if that is much longer than usual."""
        usual = self.work.seconds
        longest, where = 0.0, ""
        for worker in self.crew.workers:
            note = read_note(self.crew.note(worker))
            ids = self.units.get(note.unit)
            running = time.time() - note.began
            if ids is not None and note.position != NOTHING and running > longest:
                longest, where = running, f"simulation {ids[note.position]} runs for"
        if usual is None or longest < max(1.0, STRAGGLER * usual):
            return ""
        return f"{where} {duration(longest)}"


def _compact(ids: np.ndarray) -> range | np.ndarray:
    """Return consecutive ids as a range: a message of a few bytes."""
    first, last = int(ids[0]), int(ids[-1])
    return range(first, last + 1) if last - first + 1 == len(ids) else ids
