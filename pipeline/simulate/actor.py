"""The simulation actor: runs blocks of ids, keeps every finished simulation at once, returns only a summary."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cluster.preflight import CodeFingerprint, differences, fingerprint
from pipeline.errors import PipelineError, UsageError
from pipeline.simulate.children import Children, die_with_parent, ignore_stop_signals
from pipeline.simulate.note import Notebook
from pipeline.simulate.process_state import ProcessState
from pipeline.simulate.spec import SimulationSpec, check_schema, schema_of
from pipeline.store import Outcome, Rows, Schema, Spool
from pipeline.store.rows import concatenate

AT_ONCE = 0.005  # seconds; a simulation that took longer is kept before the next one begins
BUFFER = 0.05  # seconds of quicker simulations that may be lost when the process is killed
GRACE = 5.0  # seconds that a simulator may be late which enforces its time-out itself
EXAMPLE = 8  # rows of the first outputs that are sent to the driver
PACKAGES = ("cluster", "estimators", "evaluation", "pipeline", "simulators")
DISTRIBUTIONS = ("numpy", "ray", "zarr")


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker of a stage receives when it starts.

    Attributes:
        spec: the pickled `SimulationSpec`; its simulator names the file or module that it comes from.
        source_digest: of the simulator's source as the driver sees it.
        driver: the driver's code, which the worker's must equal.
        folder: of the workers' notes.
    """

    spec: bytes
    source_digest: str
    driver: CodeFingerprint
    folder: Path

    def load(self) -> SimulationSpec:
        """Load the simulator; a `PipelineError` where that is impossible here."""
        try:
            spec: SimulationSpec = pickle.loads(self.spec)
        except Exception as error:
            raise PipelineError(f"a worker cannot load the simulator: {error}") from error
        return spec


@dataclass(frozen=True)
class Report:
    """The result of a block: its first `rows` rows are durable, the `held` ones after them wait for `open`."""

    rows: int = 0
    held: int = 0
    keys: int = 0
    outcomes: tuple[int, ...] = (0,) * len(Outcome)
    busy: float = 0.0  # seconds in the simulator
    seconds: float = 0.0  # of the whole block
    slowest: tuple[float, int] = (0.0, -1)  # seconds, id
    schema: Schema | None = None  # of the first outputs
    example: Rows | None = None  # a few rows of that schema
    kept: np.ndarray | None = None  # ids of the durable rows, where they are not the first ones


@dataclass
class Tally:
    """Counts the rows, outcomes and seconds of a block."""

    started: float = field(default_factory=time.perf_counter)
    rows: int = 0
    keys: int = 0
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(len(Outcome), int))
    busy: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)

    def add(self, rows: Rows, seconds: float) -> None:
        self.rows, self.keys, self.busy = self.rows + len(rows), self.keys + 1, self.busy + seconds
        self.outcomes += np.bincount(rows.outcome, minlength=len(Outcome))
        self.slowest = max(self.slowest, (seconds, int(rows.ids[0])))

    def report(self) -> Report:
        return Report(
            rows=self.rows,
            keys=self.keys,
            outcomes=tuple(self.outcomes.tolist()),
            busy=self.busy,
            seconds=time.perf_counter() - self.started,
            slowest=self.slowest,
        )


class SimulationActor:
    """Simulates in one thread; if it is killed the simulation in flight is lost and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._schema: Schema | None = None
        self._spool: Spool | None = None
        self._held: list[Rows] = []
        self._tally = Tally()
        self._state = ProcessState()

    def start(self, setup: WorkerSetup) -> None:
        """Load the simulator and compare this process with the driver's.

        Raises:
            PipelineError: this process runs other code than the driver, or cannot load the simulator.
        """
        die_with_parent()
        ignore_stop_signals()
        self._spec = setup.load()
        simulator = self._spec.simulator
        different = differences(setup.driver, fingerprint(PACKAGES, DISTRIBUTIONS, loaded=True))
        if simulator.source_digest() != setup.source_digest:
            different.append(f"the source of simulator {simulator.name!r} is not the driver's")
        if different:
            raise PipelineError("a worker's code is not the driver's: " + "; ".join(different))
        limit = self._spec.timeout
        if limit is not None and simulator.owns_timeout:
            limit += GRACE
        self._note = Notebook(setup.folder / f"{self.name}.note", limit)
        self._children = Children()

    def probe(self, block: int, ids: Sequence[int], seconds: float) -> Report:
        """Simulate ids, for at most about `seconds`, and hold the rows back until `open`.

        Raises:
            UsageError: the outputs differ in name, shape or dtype.
        """
        self._note.begin(block)
        self._tally = Tally()
        schema = example = None
        for position, group in self._groups(ids):
            rows, spent = self._simulate(position, group, schema)
            if schema is None and rows.x:
                schema = schema_of(rows, self._spec.simulator.ragged)
                example = rows.take(slice(0, EXAMPLE))
            self._hold(rows, spent)
            if self._tally.busy > seconds:
                break
        self._note.rest()
        self._note.idle()
        done = self._tally.report()
        return Report(
            held=done.rows, keys=done.keys, seconds=done.seconds, schema=schema, example=example
        )

    def open(self, directory: Path, schema: Schema | None, rows_per_shard: int) -> Report:
        """Open this actor's spool, or tell it the schema, and keep the rows held back.

        Raises:
            UsageError: the held rows are not of this schema.
        """
        if self._schema is None and schema is not None:
            for rows in self._held:
                check_schema(rows, schema, self._spec.simulator.name)
        if self._spool is None:
            with self._state.restored():
                self._spool = Spool(directory, self.name, schema, rows_per_shard)
        self._schema = self._spool.schema = schema
        self._spool.rows_per_shard = rows_per_shard
        report = self._tally.report()
        self._keep()
        self._tally = Tally()
        return report

    def run(self, block: int, ids: Sequence[int]) -> Report:
        """Simulate a block of ids; ends early at the first outputs when no schema is known.

        Raises:
            UsageError: the outputs are not of the schema.
            PipelineError: the rows cannot be written, or another driver has taken over the session.
        """
        if self._spool is not None:  # blocks may be queued behind the one that raised
            self._spool.check_owned()
        self._note.begin(block)
        self._tally = Tally()
        kept = time.perf_counter()
        for position, group in self._groups(ids):
            rows, spent = self._simulate(position, group, self._schema)
            if self._schema is None and rows.x:
                return self._first_outputs(block, rows, spent)
            self._hold(rows, spent)
            if spent > AT_ONCE or time.perf_counter() - kept > BUFFER:
                self._keep()
                kept = time.perf_counter()
        self._keep()
        self._note.idle()
        return self._tally.report()

    def _first_outputs(self, block: int, rows: Rows, spent: float) -> Report:
        """Keep the rows without outputs, hold these rows back until `open`, and report their schema."""
        self._keep()
        done = self._tally.report()
        self._note.begin(block)
        self._note.idle()
        self._tally = Tally()
        self._hold(rows, spent)
        schema = schema_of(rows, self._spec.simulator.ragged)
        return replace(done, held=len(rows), schema=schema, example=rows.take(slice(0, EXAMPLE)))

    def close(self) -> None:
        """Release the spool, so that the driver can merge it."""
        if self._spool is not None:
            self._spool.close()

    def _simulate(
        self, position: int, ids: np.ndarray, schema: Schema | None
    ) -> tuple[Rows, float]:
        """Return the rows of ids that share a key, and the seconds they took."""
        self._note.running(position, self._spec.key(ids[0]))
        started = time.perf_counter()
        try:
            rows = self._spec.run(ids)
            spent = time.perf_counter() - started
            if schema is not None:
                check_schema(rows, schema, self._spec.simulator.name)
        except UsageError:
            self._keep()
            raise
        finally:
            self._children.end()
        return rows, spent

    def _hold(self, rows: Rows, spent: float) -> None:
        self._held.append(rows)
        self._tally.add(rows, spent)

    def _keep(self) -> None:
        """Make the rows held so far durable; the time this takes is not the simulator's."""
        self._note.rest()
        if self._held and self._spool is not None:
            with self._state.restored():
                self._spool.append(concatenate(self._held, self._schema))
            self._held.clear()
        self._note.kept(self._tally.rows)

    def _groups(self, ids: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the ids of each key with the position of the first in the block."""
        numbers = np.asarray(ids, np.int64)
        edges = np.flatnonzero(np.diff(numbers // self._spec.key_size)) + 1
        position = 0
        for group in np.split(numbers, edges):
            yield position, group
            position += len(group)
