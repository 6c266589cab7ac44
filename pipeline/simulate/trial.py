"""A few trial simulations, which are not kept, in a worker process like those of the stage.

If the simulator crashes, hangs or ends its process, that is the result of the trial. The first simulations of a
stream are tried, the first of them twice and once more with other noise, and then parameters at the edges of the
prior.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import numpy as np

from pipeline.errors import PipelineError, UsageError
from pipeline.progress import duration
from pipeline.simulate.actor import GRACE, SimulationActor
from pipeline.simulate.death import Death, crash_reason, read_death
from pipeline.simulate.process_pool import ProcessPool, serve
from pipeline.simulate.scratch import notes_folder
from pipeline.simulate.seed import generators
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Rows

DRAWS = 3  # simulations of the stream
NOISE = DRAWS  # the key with the parameters of the first simulation and other noise
EDGES = NOISE + 1  # the first key at the edges of the prior
EDGE = 1e-3  # quantile of a parameter there
CANDIDATES = 256  # draws whose extremes stand for the edges of a prior without quantiles
QUICK = 1.0  # seconds of a simulation; the arrays of slower ones are not compared
ENOUGH = 5.0  # seconds after which no further simulation is tried
PATIENCE = 600.0  # seconds of one simulation, unless `simulate.timeout` says otherwise
START = 120.0  # seconds in which a process must have loaded the simulator
POLL, TELL = 0.2, 10.0  # seconds between two polls, and between two lines of progress


@dataclass(frozen=True)
class TrialSpec(SimulationSpec):
    """The simulations of a trial by key, see `DRAWS`, `NOISE` and `EDGES`."""

    def _parameters(self, key: int) -> np.ndarray:
        if key < DRAWS:
            return super()._parameters(key)
        if key == NOISE:
            return super()._parameters(0)
        edges = edges_of(self.simulator.prior, self.seed)
        return np.resize(np.roll(edges, EDGES - key, axis=0), (self.key_size, edges.shape[1]))

    @property
    def keys(self) -> tuple[int, ...]:
        """The keys that are tried, in order: the first twice."""
        edges = 1 if self.simulator.batched else 4
        return (0, 0, NOISE, *range(1, DRAWS), *range(EDGES, EDGES + edges))

    def ids(self, key: int) -> np.ndarray:
        return np.arange(key * self.key_size, (key + 1) * self.key_size)


def edges_of(prior: Any, seed: int) -> np.ndarray:
    """Return parameters (4, D) at the edges of a prior: all low, all high, and in turns."""
    size = len(prior.names)
    turns = np.arange(size) % 2 == 0
    high = np.stack([np.zeros(size, bool), np.ones(size, bool), turns, ~turns])
    if prior.has_quantile:
        return np.asarray(prior.quantile(np.where(high, 1 - EDGE, EDGE)))
    rng, _ = generators(seed, 0, 0)
    theta = np.asarray(prior.sample(rng, CANDIDATES))
    centred = (theta - theta.mean(0)) / np.maximum(theta.std(0), 1e-300)
    return theta[np.argmax(np.where(high, 1, -1) @ centred.T, axis=1)]


@dataclass(frozen=True)
class Attempt:
    """The result of one key: rows, or the reason why its process ended."""

    key: int
    rows: Rows | None
    end: str = ""
    notes: tuple[str, ...] = ()


class TrialActor(SimulationActor):
    """An actor that returns its rows instead of keeping them."""

    def attempt(self, number: int, ids: np.ndarray) -> tuple[Rows, tuple[str, ...]]:
        """Return the rows of a key, and notes about the arrays that hold them."""
        self._note.begin(number)
        rows, spent = self._simulate(0, ids, None)
        notes = self._notes(ids) if number == NOISE and rows.x and spent < QUICK else ()
        self._note.rest()
        self._note.idle()
        return rows, notes

    def _notes(self, ids: np.ndarray) -> tuple[str, ...]:
        """Run two more simulations, and return notes about arrays that they share."""
        spec = self._spec
        _, rng = generators(spec.seed, spec.stream, NOISE)
        theta = np.concatenate([spec.theta(ids), spec.theta(ids + len(ids))])
        try:
            return tuple(spec.simulator.shared_arrays(theta, rng))
        except Exception:  # failures are reported with the rows of each key
            return ()


class TrialPool(ProcessPool):
    """The process of a trial."""

    module = "pipeline.simulate.trial"


def attempts(trial: TrialSpec, cpus: float, log: Callable[[str], None]) -> Iterator[Attempt]:
    """Yield the result of each key, until `ENOUGH` seconds are spent or the process has ended.

    Raises:
        UsageError: another process cannot load the simulator.
    """
    from pipeline.simulate.setup import worker_setup  # the trial's process does without it

    name = trial.simulator.name
    try:
        pickled = cloudpickle.dumps(trial)
    except Exception as error:
        raise UsageError(f"simulator {name!r} cannot go to another process: {error}") from error
    with notes_folder() as notes:
        pool = TrialPool(worker_setup(trial, pickled, notes), 1, cpus)
        try:
            _started(pool, name)
            began = time.monotonic()
            for key in trial.keys:
                pool.workers[0].send("attempt", key, trial.ids(key), block=key)
                yield (answer := _attempt(pool, key, trial, log))
                if answer.rows is None or time.monotonic() - began > ENOUGH:
                    return
        finally:
            pool.dismiss(0.0)


def _started(pool: ProcessPool, name: str) -> None:
    """Wait for the process to have loaded the simulator."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            answer = next(pool.collect(POLL), None)
        except PipelineError as error:
            raise UsageError(str(error)) from error
        if answer is not None and answer.lost:
            raise UsageError(f"simulator {name!r}: a process that loads it {_end(pool, answer, 0)}")
        if answer is not None:
            return
    raise UsageError(f"simulator {name!r}: a process has not loaded it in {duration(START)}")


def _attempt(pool: ProcessPool, key: int, trial: TrialSpec, log: Callable[[str], None]) -> Attempt:
    """Wait for the rows of a key, or for the end of the process."""
    limit = trial.timeout or PATIENCE
    began = told = time.monotonic()
    while (now := time.monotonic()) < began + 2 * limit + 2 * GRACE:
        try:
            answer = next(pool.collect(POLL), None)
        except PipelineError as error:
            return Attempt(key, None, str(error))
        if answer is not None and answer.lost:
            return Attempt(key, None, _end(pool, answer, limit))
        if answer is not None:
            rows, notes = answer.result
            return Attempt(key, rows, notes=notes)
        if now - told > TELL:
            told = now
            log(f"check: a simulation runs for {duration(now - began)}")
    return Attempt(key, None, _late(limit))


def _end(pool: ProcessPool, answer: Any, limit: float) -> str:
    """Return why a process ended."""
    death, dump = read_death(pool.note(answer.worker))
    code = answer.worker.child.returncode
    if death is Death.TIMEOUT:
        return _late(limit)
    if death is Death.CRASH:
        return f"crashed: {crash_reason(dump)}"
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}: out of memory?"
    return f"ended by itself, with exit code {code}: a simulator must return or raise"


def _late(limit: float) -> str:
    return (
        f"gave no result within {duration(limit)}; if it may take longer, set simulate.timeout, "
        "in seconds"
    )


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), TrialActor(sys.argv[2]))
