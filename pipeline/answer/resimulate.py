"""Simulations at posterior draws: kept in the run, resumable, with failures as rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.connection import usable_cpus
from pipeline.config import IMPORTED, Config
from pipeline.errors import UsageError
from pipeline.files import canonical_text
from pipeline.progress import duration
from pipeline.run import STREAMS, RunDirectory
from pipeline.simulate.stage import simulate_target
from pipeline.simulate.target import Target, listed
from pipeline.stop import Stop
from pipeline.store import Store, to_numpy
from pipeline.store.observation import Observation, without_row

SIMULATIONS = 200
PATIENT = 60.0  # seconds that simulations may take without being asked for
FOLDER = "predictive"


@dataclass(frozen=True)
class Resimulated:
    """Simulations at given parameters.

    Attributes:
        theta: parameters of those that are ok, shape (n, D).
        x: their outputs, each (n, ...).
        counts: of all, by outcome.
    """

    theta: np.ndarray
    x: dict[str, np.ndarray]
    counts: dict[str, int]


def default_number(config: Config, run: RunDirectory) -> int:
    """Return how many simulations are made without being asked for.

    Raises:
        UsageError: they would take long; the message says how long, and how to ask for them.
    """
    seconds = _seconds(run)
    workers = config.simulate.workers or max(1, int(usable_cpus() / config.simulate.cpus))
    expected = SIMULATIONS * seconds / workers
    if expected > PATIENT:
        raise UsageError(
            f"{SIMULATIONS} simulations from the posterior would take about {duration(expected)}; "
            f"--simulations {SIMULATIONS} makes them"
        )
    return SIMULATIONS


def _seconds(run: RunDirectory) -> float:
    """Return the mean seconds of the first training simulations."""
    path = run.store(STREAMS[0])
    if not (path / "store.json").exists():
        return 0.0
    store = Store.open(path)
    ids = store.ids()[:64]
    return float(store.rows(ids).seconds.mean()) if len(ids) else 0.0


def resimulate(
    config: Config,
    run: RunDirectory,
    simulator: Any,
    theta: np.ndarray,
    origin: Mapping[str, Any],
    stop: Stop,
) -> Resimulated:
    """Simulate at parameters, or find it done.

    Arguments:
        theta: parameters, shape (n, D), natural units.
        origin: what they follow from, JSON.

    Raises:
        UsageError: the simulations of the run were imported.
        Stopped: a stop was requested; a repeat continues.
    """
    if config.simulator.name == IMPORTED:
        raise UsageError("the simulations were imported: there is no simulator")
    spec = listed(config, simulator, theta, origin)
    name = hashlib.sha256(canonical_text(dict(spec.proposal)).encode()).hexdigest()[:12]
    target = Target("predictive", spec, run.path / FOLDER / name, len(theta))
    result = simulate_target(config, run, target, stop=stop)
    store = Store.open(target.path).snapshot()
    if not result.counts["ok"]:
        return Resimulated(theta[:0], {}, result.counts)
    ids, parameters, x, _ = to_numpy(store, len(theta))
    observation = Observation.of(simulator, store.identity)
    outputs = without_row(x) if observation is None else observation(x, ids)
    return Resimulated(parameters, outputs, result.counts)
