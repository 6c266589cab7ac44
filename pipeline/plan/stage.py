"""What a run would do, before anything is spent: simulations, core hours, bytes, shards."""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import IMPORTED, Config, simulator_of
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.forecast import Workload, forecast
from pipeline.simulate.seed import generators
from pipeline.store import Store
from pipeline.streams import RunStream

PROBE_SECONDS = 5.0  # a probe stops after this long, but never before one simulation
PROBES = 5
FIXED_SHARD_FILES = 13  # of five arrays, two groups, and the manifest
FILES_PER_OUTPUT = 2
FIXED_ROW_BYTES = 8 + 1 + 4 + 16  # id, outcome, seconds, hash


@dataclass(frozen=True)
class Probe:
    """A few measured simulations."""

    seconds: float  # median of one simulation
    row_bytes: int
    outputs: dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape
    simulations: int
    variation: float  # standard deviation of the seconds over their mean


def _simulate(simulator: Any, config: Config, key: int) -> tuple[np.ndarray, dict[str, Any], float]:
    prior_rng, noise_rng = generators(config.seed, RunStream.TRAIN, key)
    size = config.simulate.block if simulator.batched else 1
    theta = simulator.prior.sample(prior_rng, size)
    started = time.perf_counter()
    if simulator.batched:
        x = simulator.simulate_block(theta, noise_rng)
        return theta[0], {k: v[0] for k, v in x.items()}, (time.perf_counter() - started) / size
    x = simulator.simulate(theta[0], noise_rng, timeout=config.simulate.timeout)
    return theta[0], x, time.perf_counter() - started


def probe(config: Config) -> Probe:
    """Measure a few simulations in this process; `UsageError` where there is no simulator."""
    simulator = simulator_of(config)
    if simulator.name == IMPORTED:
        raise UsageError(
            "simulator 'imported': there is none to try, its simulations are ready-made"
        )
    seconds: list[float] = []
    sizes: list[int] = []
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    started = time.perf_counter()
    for key in range(PROBES):
        theta, x, elapsed = _simulate(simulator, config, key)
        arrays = {name: np.asarray(value) for name, value in x.items()}
        outputs = {name: (str(value.dtype), value.shape) for name, value in arrays.items()}
        seconds.append(elapsed)
        sizes.append(theta.nbytes + sum(value.nbytes for value in arrays.values()))
        if time.perf_counter() - started > PROBE_SECONDS:
            break
    row_bytes = FIXED_ROW_BYTES + round(statistics.mean(sizes))
    spread = statistics.pstdev(seconds) / max(statistics.mean(seconds), 1e-9)
    return Probe(statistics.median(seconds), row_bytes, outputs, len(seconds), spread)


def plan(config: Config, run: RunDirectory, workers: int | None = None) -> dict[str, Any]:
    """Say what `run` would do: per stream what is there and what is missing, and its cost.

    Arguments:
        workers: simulations at a time; none: as configured, or as fit on what jobs ask for, or here.

    Returns a mapping of JSON values: `streams` (have, need, new), `seconds_per_simulation`, `core_hours`,
    `wall_seconds`, `workers`, `bytes`, `shards`, `files`, and `schedule`: of each layout what
    `schedule.forecast` says.
    """
    streams = {}
    for stream, budget in config.budgets.items():
        path = run.store(stream)
        have = Store.open(path).counts(budget)["done"] if path.exists() else 0
        streams[stream] = {"need": budget, "have": have, "new": budget - have}
    measured = probe(config)
    new = sum(stream["new"] for stream in streams.values())
    core_seconds = new * measured.seconds * config.simulate.cpus
    workers = (
        workers or config.simulate.workers or max(1, int(_cores(config) / config.simulate.cpus))
    )
    size = new * measured.row_bytes
    shard_bytes = config.store.shard_mb * 2**20
    shards = math.ceil(size / shard_bytes)
    files = FIXED_SHARD_FILES + FILES_PER_OUTPUT * len(measured.outputs)
    work = Workload(new, measured.seconds, measured.row_bytes, shard_bytes, files, measured.variation,
                    _per_agent(config), config.simulate.leases, config.simulate.term)  # fmt: skip
    forecasts = forecast(work, workers) if new else {}
    return {
        "streams": streams,
        "seconds_per_simulation": measured.seconds,
        "core_hours": core_seconds / 3600,
        "workers": workers,
        "wall_seconds": new * measured.seconds / workers,
        "bytes": size,
        "shards": shards,
        "files": shards * files,
        "schedule": {layout: found.values() for layout, found in forecasts.items()},
        "outputs": {
            name: [dtype, list(shape)] for name, (dtype, shape) in measured.outputs.items()
        },
    }


def _per_agent(config: Config) -> int:
    """Return the workers of an agent: as configured, or as fit on a node of the jobs."""
    options = {**config.cluster.options, **config.cluster.stages.simulate}
    cores = config.simulate.per_agent or options.get("cpus-per-task")
    return max(1, int(float(cores) / config.simulate.cpus)) if cores else Workload.per_agent


def _cores(config: Config) -> float:
    """Return the cores that jobs ask for, or those of this machine."""
    options = {**config.cluster.options, **config.cluster.stages.simulate}
    nodes, each = str(options.get("nodes", 1)).partition("-")[0], options.get("cpus-per-task")
    if each is None or not nodes.isdecimal():
        return os.cpu_count() or 1
    return int(nodes) * float(each)
