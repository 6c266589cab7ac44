"""Draws of the reference posterior for the test simulations, on all cores where they take long.

They follow from the test simulations and a seed alone. They are stored in `RUN/references` and used for every
training of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]

from pipeline.config import Config
from pipeline.errors import DamagedError, PipelineError
from pipeline.files import read_arrays, write_arrays
from pipeline.locks import lock
from pipeline.progress import Progress, log
from pipeline.run import Run
from pipeline.stop import Stop
from pipeline.streams import RunStream

WORTH_PROCESSES = 10.0  # seconds of work left, from which on other processes help

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A reference posterior of the configured simulator.

    Attributes:
        config: the whole configuration.
        name: which one.
        n: draws for each test simulation.
        seed: of the draws.
    """

    config: Config
    name: str
    n: int
    seed: int

    @property
    def description(self) -> str:
        """Everything that determines the draws beside the test simulations, as JSON."""
        simulator = self.config.simulator
        source = [simulator.name, self.config.prior, simulator.arguments]
        return json.dumps([*source, self.name, self.n, self.seed])

    def draws(
        self,
        run: Run,
        test_digest: str,
        ids: np.ndarray,
        observations: list[Observation],
        stop: Stop,
    ) -> np.ndarray:
        """Return draws for each observation; stored ones are read.

        Arguments:
            run: the run directory.
            test_digest: of the test simulations.
            ids: of the test simulations, shape (B,).
            observations: their outputs.
            stop: request to leave.

        Returns:
            Shape (B, n, D).

        Raises:
            PipelineError: the reference cannot be drawn from; the message names the id.
            Stopped: a stop was requested.
        """
        key = hashlib.sha256((self.description + test_digest).encode()).hexdigest()[:16]
        path = run.path / "references" / f"{self.name}-{key}.npz"
        found = self._found(path, ids)
        if found is not None:
            return found
        with _in_turn(path.parent):  # cases of a study share the folder
            found = self._found(path, ids)
            return self._draw(path, ids, observations, stop) if found is None else found

    def _draw(
        self, path: Path, ids: np.ndarray, observations: list[Observation], stop: Stop
    ) -> np.ndarray:
        """Draw, and keep the draws."""
        rows: list[np.ndarray] = []
        tasks = [(self.description, int(i), x) for i, x in zip(ids, observations, strict=True)]
        with Progress(f"reference {self.name}", len(tasks), "test sets") as progress:
            for draws in _in_order(tasks):
                stop.check("evaluate")
                rows.append(draws)
                progress.update(len(rows))
        description = np.array(self.description)
        drawn = {"ids": ids, "references": np.stack(rows), "description": description}
        write_arrays(path, drawn)
        return drawn["references"]

    def _found(self, path: Path, ids: np.ndarray) -> np.ndarray | None:
        """Return stored draws; None if there are none or they are damaged."""
        try:
            arrays = read_arrays(path)
            references = arrays["references"]
            fits = references.shape[:2] == (len(ids), self.n) and np.array_equal(arrays["ids"], ids)
            if not fits or str(arrays.get("description", self.description)) != self.description:
                raise DamagedError(f"{path} holds other draws than its name says")
        except FileNotFoundError:
            return None
        except (DamagedError, KeyError) as error:
            log(f"evaluate: {error}; draws anew")
            return None
        return references


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Let one process draw at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def _in_order(tasks: list[tuple[str, int, Observation]]) -> Iterator[np.ndarray]:
    """Yield the draws in order: computed in this process first, in one for each core if that takes long."""
    began = time.monotonic()
    for done, task in enumerate(tasks):
        left = (time.monotonic() - began) / max(done, 1) * (len(tasks) - done)
        if done and left > WORTH_PROCESSES:
            break
        yield _draw(*task)
    else:
        return
    cores = len(os.sched_getaffinity(0))
    parallel = Parallel(n_jobs=cores, return_as="generator", pre_dispatch="2*n_jobs")
    yield from parallel(delayed(_draw)(*task) for task in tasks[done:])


@lru_cache(maxsize=1)
def _simulator(name: str, prior: str, arguments: str) -> Any:
    import simulators

    return simulators.load(name, prior=json.loads(prior), **json.loads(arguments))


def _draw(description: str, i: int, x: Observation) -> np.ndarray:
    """Draw for test simulation `i`; the random numbers follow from (seed, i)."""
    source, prior, arguments, name, n, seed = json.loads(description)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RunStream.REFERENCE, i)))
    try:
        simulator = _simulator(source, json.dumps(prior), json.dumps(arguments))
        draws = np.asarray(simulator.reference(x, n, rng, name=name), dtype=np.float64)
    except ValueError as error:
        raise PipelineError(f"reference {name!r} for test simulation {i}: {error}") from error
    if not np.isfinite(draws).all():
        raise PipelineError(f"reference {name!r} for test simulation {i} gave NaN or infinity")
    return draws
