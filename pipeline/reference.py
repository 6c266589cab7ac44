"""Draws of the reference posterior for the test simulations, in parallel where one takes long.

They follow from the test simulations and a seed alone and serve every training of a run, so they are
kept in `RUN/references`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]

from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.stop import Stop

STREAM = 2  # of random numbers, beside training (0) and test (1) simulations
WORTH_PROCESSES = 10.0  # seconds of work left, from which on other processes help

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A reference posterior of the configured simulator.

    Attributes:
        name: which one. n: draws for each test simulation. seed: of the draws.
    """

    config: Config
    name: str
    n: int
    seed: int

    @property
    def description(self) -> str:
        """All that decides the draws, beside the test simulations, as JSON."""
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
        """Return draws for each observation, shape (B, n, D), or find them in the run directory.

        Raises:
            PipelineError: the reference cannot be drawn from; the message names the id.
            Stopped: a stop was requested.
        """
        key = hashlib.sha256((self.description + test_digest).encode()).hexdigest()[:16]
        path = run.path / "references" / f"{self.name}-{key}.npz"
        if path.exists():
            with np.load(path) as file:
                return np.asarray(file["references"])
        rows: list[np.ndarray] = []
        tasks = [(self.description, int(i), x) for i, x in zip(ids, observations, strict=True)]
        with Progress(f"reference {self.name}", len(tasks), "test sets") as progress:
            for draws in _in_order(tasks):
                stop.check("evaluate")
                rows.append(draws)
                progress.update(len(rows))
        write_arrays(path, {"ids": ids, "references": np.stack(rows)})
        return np.stack(rows)


def _in_order(tasks: list[tuple[str, int, Observation]]) -> Iterator[np.ndarray]:
    """Work here while that is quick, then in as many processes as there are cores."""
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
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM, i)))
    try:
        simulator = _simulator(source, json.dumps(prior), json.dumps(arguments))
        draws = np.asarray(simulator.reference(x, n, rng, name=name), dtype=np.float64)
    except ValueError as error:
        raise PipelineError(f"reference {name!r} for test simulation {i}: {error}") from error
    if not np.isfinite(draws).all():
        raise PipelineError(f"reference {name!r} for test simulation {i} gave NaN or infinity")
    return draws


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz that a reader sees whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(buffer.getvalue())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
