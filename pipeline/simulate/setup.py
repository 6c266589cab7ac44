"""What both ways of simulating share: identity, specification, workers, and the check of failures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection import RayCluster
from cluster.preflight import fingerprint
from pipeline.config import simulator_of
from pipeline.errors import TooManyFailed, UsageError
from pipeline.run import STREAMS
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES, WorkerSetup
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Outcome, Rows
from simulators import DataPrior

RETRIES = ("all", "failed", "invalid", "timeout")
MOST_PARAMETERS = 21_201  # of a Sobol sequence
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

Approve = Callable[[SimulationSpec, Rows], None]


# --- what is simulated ---------------------------------------------------------------------------


def spec_of(config: Any, stream: str) -> SimulationSpec:
    """Return what all simulations of a stream have in common.

    Raises:
        UsageError: the design needs quantiles of the prior, which it does not have, or the prior is a data set
            with fewer rows than the budget.
    """
    simulator = simulator_of(config)
    key_size = config.simulate.block if simulator.batched else 1
    design = str(config.design) if stream == "train" else "random"
    if design == "sobol":
        _check_sobol(simulator.prior)
    _check_data_rows(config, simulator.prior, stream)
    number = STREAMS.index(stream)
    return SimulationSpec(simulator, config.seed, number, key_size, config.simulate.timeout, design)


def _check_data_rows(config: Any, prior: Any, stream: str) -> None:
    """Refuse a budget of more rows than a prior that is a data set has."""
    if not isinstance(prior, DataPrior):
        return
    key = "budget" if stream == "train" else "test"
    wanted, there = int(getattr(config, key)), prior.available(STREAMS.index(stream))
    if wanted > there and not (prior.replace and there):
        advice = (
            "" if prior.replace else "; `replace: true` in the prior draws rows with replacement"
        )
        raise UsageError(
            f"{key}={wanted}: the prior is a data set with {there} rows for {stream} simulations{advice}"
        )


def _check_sobol(prior: Any) -> None:
    try:
        prior.require_quantile("design=sobol")
    except ValueError as error:
        raise UsageError(f"{error}; design=random takes any prior") from None
    if len(prior.names) > MOST_PARAMETERS:
        raise UsageError(
            f"design=sobol takes at most {MOST_PARAMETERS} parameters, the prior has "
            f"{len(prior.names)}; design=random takes any number"
        )


def identity(spec: SimulationSpec) -> dict[str, Any]:
    """Return what determines the rows of a store, together with their ids."""
    content = {
        "simulator": spec.simulator.identity(),
        "names": list(spec.simulator.prior.names),
        "seed": spec.seed,
        "stream": STREAMS[spec.stream] if spec.stream < len(STREAMS) else "listed",
        "block_size": spec.key_size,
        **spec.origin,
    }
    return content if spec.design == "random" else content | {"design": spec.design}


def retried_outcomes(retry: str | None) -> tuple[Outcome, ...]:
    """Return which outcomes are simulated again.

    Raises:
        UsageError: `retry` is neither None nor one of `RETRIES`.
    """
    if retry is None:
        return ()
    if retry not in RETRIES:
        raise UsageError(f"retry = {retry!r}: valid are {', '.join(RETRIES)}")
    bad = tuple(outcome for outcome in Outcome if outcome is not Outcome.OK)
    return bad if retry == "all" else (Outcome[retry.upper()],)


# --- by whom -------------------------------------------------------------------------------------


def worker_setup(spec: SimulationSpec, pickled: bytes, notes: Path) -> WorkerSetup:
    """Return what every worker of a stage receives when it starts."""
    return WorkerSetup(
        pickled, spec.simulator.source_digest(), fingerprint(PACKAGES, DISTRIBUTIONS), notes
    )


def worker_count(settings: Any, available: RayCluster, keys: int) -> int:
    """Return how many workers to start: as many as asked for, or as fit, but at most one for each key.

    Raises:
        UsageError: fewer fit than were asked for, or `simulate.memory` is no size.
    """
    memory = worker_memory(settings)
    capacity = available.capacity(settings.cpus, memory, settings.gpus)
    asked = settings.workers or max(1, capacity)
    if asked > capacity:
        each = f"simulate.cpus={settings.cpus:g}"
        each += f" and simulate.memory={settings.memory}" if memory else ""
        each += f" and simulate.gpus={settings.gpus:g}" if settings.gpus else ""
        gpus = f", {available.gpus:g} GPUs" if settings.gpus else ""
        raise UsageError(
            f"simulate.workers={asked} with {each} each do not fit: the cluster has "
            f"{available.cpus:g} cores and {available.memory / 1e9:.1f} GB{gpus} on "
            f"{available.nodes} node(s), room for {capacity}"
        )
    return min(asked, keys)


def worker_memory(settings: Any) -> float | None:
    """Return `simulate.memory`, such as `2GB`, `512 MiB` or a number, in bytes; None where it is not set.

    Raises:
        UsageError: it is no size.
    """
    size = settings.memory
    if size is None:
        return None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([KMGT]?I?B?)\s*", str(size).upper())
    number = float(match[1]) * UNITS.get(match[2], 0.0) if match else 0.0
    if number <= 0:
        raise UsageError(f"simulate.memory = {size!r}: valid are bytes, or like '512MB' and '2GiB'")
    return number


# --- what came of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulationCost:
    """What new simulations cost: `workers` spent `busy` seconds in the simulator, in `seconds` of wall time."""

    simulated: int = 0
    workers: int = 0
    busy: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: SimulationCost) -> SimulationCost:
        return SimulationCost(
            self.simulated + other.simulated,
            max(self.workers, other.workers),
            self.busy + other.busy,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class SimulateResult:
    """The result of the stage.

    `counts` are those of `Store.counts`; `simulated` rows are new; `workers` processes spent `busy` seconds in
    the simulator during the `seconds` from the first simulation to the last.
    """

    stream: str
    budget: int
    counts: dict[str, int]
    simulated: int = 0
    workers: int = 0
    busy: float = 0.0
    seconds: float = 0.0


def check_failed(stream: str, counts: dict[str, int], most: float) -> None:
    """Raise `TooManyFailed` where the share of rows that are not ok is above `most`."""
    bad = {name: counts[name] for name in ("failed", "timeout", "invalid") if counts[name]}
    share = sum(bad.values()) / max(1, counts["done"])
    if share > most:
        shown = ", ".join(f"{number} {name}" for name, number in bad.items())
        raise TooManyFailed(
            f"{share:.1%} of the {stream} simulations are not ok ({shown}), more than "
            f"max_failed={most:g}; `sbiflow failures` lists them, all are kept"
        )
