"""Simulations of a store as a history of pyABC, for its own plots and tools.

The parameters have their own names and natural units. An ABC run gives its generations, each with the particles
that were accepted, their weights, distances and outputs, and the number of simulations of the generation. Other
rows, which are draws of the prior, are one generation in which all are accepted with equal weights, with their
distances to an observation.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyabc
from pyabc.population import Particle, Population

from pipeline.abc.distance import euclidean
from pipeline.abc.kept import Kept
from pipeline.config import Config, simulator_of
from pipeline.errors import UsageError
from pipeline.files import read_arrays, writing
from pipeline.results import abc_done
from pipeline.run import RunDirectory
from pipeline.store import Store, to_numpy
from pipeline.store.observation import Observation, without_row

SUFFIX = ".db"
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ParticleGeneration:
    """One generation of a history: particles of weights of sum 1, and how many simulations they cost."""

    epsilon: float
    theta: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    outputs: Sequence[Outputs]
    simulations: int


def export_history(
    config: Config, run: RunDirectory, stream: str, path: Path, observation: Outputs | None = None
) -> Path:
    """Write the simulations of a stream as a history of pyABC, which appears whole or not at all.

    Arguments:
        config, run: the configuration and the run directory.
        stream: train, test, or abc-KEY of an ABC run that is finished.
        path: file to write, a SQLite database.
        observation: outputs to which distances are measured; an ABC run has its own.

    Raises:
        UsageError: no observation is given for draws of the prior, one is given for an ABC run, or the ABC run is
            not finished.
    """
    simulator = simulator_of(config)
    kind, _, key = stream.partition("-")
    if kind == "abc":
        if observation is not None:
            raise UsageError(f"--obs: {stream} has an observation of its own; leave it out")
        observation, generations = _of_abc(run, key, simulator)
    elif observation is None:
        raise UsageError(f"--obs: a history of pyABC of stream {stream!r} needs an observation")
    else:
        generations = iter([_of_prior(Store.open(run.store(stream)), simulator, observation)])
    _written(path, lambda part: _write(part, simulator, observation, generations))
    return path


def _of_abc(
    run: RunDirectory, key: str, simulator: Any
) -> tuple[Outputs, Iterator[ParticleGeneration]]:
    if (done := abc_done(run, key)) is None:
        raise UsageError(f"abc-{key} is not finished: repeat `sbiflow abc`")
    kept = Kept.of(run.abc(key), simulator)
    epsilon = [float(value) for value in done["epsilon"]]
    return read_arrays(run.abc(key) / "observation.npz"), _generations(kept, epsilon)


def _generations(kept: Kept, epsilon: list[float]) -> Iterator[ParticleGeneration]:
    for generation, largest in enumerate(epsilon):
        results = kept.read(generation)
        found = [r.particle for r in results.values() if r.accepted and r.particle is not None]
        weight = np.array([particle.weight for particle in found])
        yield ParticleGeneration(
            largest,
            np.stack([kept.prior.coordinates.theta(particle.parameter) for particle in found]),
            weight / weight.sum(),
            np.array([particle.distance for particle in found]),
            [particle.sum_stat for particle in found],
            len(results),
        )


def _of_prior(store: Store, simulator: Any, observation: Outputs) -> ParticleGeneration:
    ids, theta, x, lengths = to_numpy(store)
    observe = Observation.of(simulator, store.identity)
    x = without_row(x) if observe is None else observe(x, ids)
    if x.keys() != observation.keys():
        raise UsageError(f"--obs has {', '.join(observation)}; the outputs are {', '.join(x)}")
    outputs = [
        {name: v[k, : lengths[name][k]] if name in lengths else v[k] for name, v in x.items()}
        for k in range(len(ids))
    ]
    distance = np.array([euclidean(each, observation) for each in outputs])
    weight = np.full(len(ids), 1 / len(ids))
    return ParticleGeneration(float(distance.max()), theta, weight, distance, outputs, len(ids))


def _write(
    path: Path, simulator: Any, observation: Outputs, generations: Iterator[ParticleGeneration]
) -> None:
    history = pyabc.History(f"sqlite:///{path.resolve()}")
    names = tuple(simulator.prior.names)
    words = [json.dumps({"name": word}) for word in ("distance", "epsilon", "population")]
    history.store_initial_data(None, {}, dict(observation), {}, [simulator.name], *words)
    for t, one in enumerate(generations):
        particles = [
            Particle(
                m=0,
                parameter=pyabc.Parameter(dict(zip(names, theta.tolist(), strict=True))),
                weight=float(weight),
                sum_stat=dict(outputs),
                distance=float(distance),
            )
            for theta, weight, distance, outputs in zip(
                one.theta, one.weight, one.distance, one.outputs, strict=True
            )
        ]
        history.append_population(
            t, one.epsilon, Population(particles), one.simulations, [simulator.name]
        )
    history.done()


def _written(path: Path, write: Callable[[Path], None]) -> None:
    """Have a file written beside `path`, and rename it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder) / path.name
            write(part)
            os.replace(part, path)
