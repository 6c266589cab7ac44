"""The simulation stage: bring a store up to its budget with actors that may die at any time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cluster
from cluster.connection import Cluster
from cluster.preflight import facts
from pipeline.errors import PipelineError, TooManyFailed, UsageError
from pipeline.progress import Progress
from pipeline.run import STREAMS, Run
from pipeline.simulation.actor import DISTRIBUTIONS, PACKAGES, Job
from pipeline.simulation.ledger import Ledger
from pipeline.simulation.session import Session
from pipeline.simulation.task import Simulation
from pipeline.simulation.work import Work
from pipeline.size import read_bytes
from pipeline.stop import Stop
from pipeline.store import Outcome, Store

RETRIES = ("all", "failed", "invalid", "timeout")
MOST_PARAMETERS = 21_201  # of a Sobol sequence

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class SimulateResult:
    """What the stage came to.

    `counts` are those of `Store.counts`; `simulated` rows are new; `workers` actors spent `busy` seconds in
    the simulator during the `seconds` from the first simulation to the last.
    """

    stream: str
    budget: int
    counts: dict[str, int]
    simulated: int = 0
    workers: int = 0
    busy: float = 0.0
    seconds: float = 0.0


def simulate(
    config: Any,
    run: Run,
    stream: str = "train",
    *,
    stop: Stop,
    retry: str | None = None,
    log: Log | None = None,
) -> SimulateResult:
    """Simulate the ids below the budget that the store lacks.

    Args:
        config: the configuration; see `docs/configuration.md`.
        run: the run directory.
        stream: "train" or "test"; the budget of "test" is `config.test`.
        stop: polled; a request leaves with everything finished committed.
        retry: also simulate again what has this outcome, one of `RETRIES`.
        log: takes events for the journal.

    Raises:
        UsageError: the store is another simulator's, outputs change shape, or the cluster is too small.
        TooManyFailed: more than the share `config.max_failed` of the budget is not ok; all is committed.
        Stopped: a stop was requested; a repeat continues.
        PipelineError: Ray died, a worker runs other code, or the disk refused.
    """
    simulation = simulation_of(config, stream)
    budget = int(config.budget if stream == "train" else config.test)
    log = partial(_log, log, stream)
    ledger = Ledger(run.store(stream), identity(simulation), int(config.store.shard_mb * 2**20))
    stop.check("simulate")
    with ledger:
        wanted = ledger.wanted(budget, outcomes(retry))
        spent = _work(config, run, stream, simulation, ledger, wanted, stop, log)
    if not ledger.exists:  # stopped before the first outputs were known
        stop.check(f"simulate {stream}")
    counts = Store.open(run.store(stream)).counts(budget)
    log({"event": "simulated", "budget": budget, "counts": counts, **asdict(spent)})
    if counts["missing"]:
        stop.check(f"simulate {stream}")
        raise PipelineError(
            f"{counts['missing']} simulations were lost: repeat the command to run them again"
        )
    check_failed(stream, counts, config.max_failed)
    return SimulateResult(stream, budget, counts, **asdict(spent))


def identity(simulation: Simulation) -> dict[str, Any]:
    """Return what the rows of a store follow from, beside their ids."""
    content = {
        "simulator": simulation.simulator.identity(),
        "names": list(simulation.simulator.prior.names),
        "seed": simulation.seed,
        "stream": STREAMS[simulation.stream],
        "block_size": simulation.block,
    }
    return content if simulation.design == "random" else content | {"design": simulation.design}


@dataclass(frozen=True)
class Spent:
    """What a session cost; the fields are those of `SimulateResult`."""

    simulated: int = 0
    workers: int = 0
    busy: float = 0.0
    seconds: float = 0.0


def simulation_of(config: Any, stream: str) -> Simulation:
    """Return what all simulations of a stream have in common.

    Raises:
        UsageError: the prior has no quantile, which the design needs.
    """
    from pipeline.config import simulator_of

    simulator = simulator_of(config)
    block = config.simulate.block if simulator.batched else 1
    number = STREAMS.index(stream)
    design = _design(config, simulator.prior) if stream == "train" else "random"
    return Simulation(simulator, config.seed, number, block, config.simulate.timeout, design)


def _design(config: Any, prior: Any) -> str:
    possible = prior.has_quantile and len(prior.names) <= MOST_PARAMETERS
    if config.design == "sobol" and not possible:
        raise UsageError(
            f"design=sobol needs a prior with quantiles and at most {MOST_PARAMETERS} parameters: independent "
            f"ones, or a multivariate normal without bounds; design=random takes any. The prior is {prior}"
        )
    return str(config.design)


def _work(
    config: Any,
    run: Run,
    stream: str,
    simulation: Simulation,
    ledger: Ledger,
    wanted: np.ndarray,
    stop: Stop,
    log: Log,
) -> Spent:
    """Simulate the wanted ids and commit them, in a cluster that is there for so long."""
    from pipeline.simulation.crew import Crew, pickled

    if not len(wanted):
        ledger.create(None)
        return Spent()
    budget = int(config.budget if stream == "train" else config.test)
    memory = None if config.simulate.memory is None else read_bytes(config.simulate.memory)
    with connected(config) as rays, _notes(run) as notes:
        size = workers(config.simulate, rays, memory, len(np.unique(wanted // simulation.block)))
        crew = Crew(job(simulation, pickled(simulation), notes), size, config.simulate.cpus, memory)
        work = Work(wanted, simulation.block)
        session = Session(simulation, ledger, crew, work, rays.alive, stop)
        label = "simulations" if stream == "train" else "test simulations"
        try:
            with Progress("simulate", budget, label, budget - len(wanted)) as progress:
                session.run(progress, log)
        finally:
            if rays.alive():
                crew.dismiss()
        seconds = session.seconds
        ledger.finish()
    return Spent(session.rows, size, session.busy, seconds)


def job(simulation: Simulation, pickled: bytes, notes: Path) -> Job:
    """Return what every worker of a stage gets."""
    return Job(
        pickled,
        simulation.simulator.source_digest(),
        facts(PACKAGES, DISTRIBUTIONS),
        notes,
    )


@contextmanager
def connected(config: Any) -> Iterator[Cluster]:
    """Connect to Ray; what the configuration got wrong is a `UsageError`."""
    try:
        connection = cluster.connect(config.cluster.backend, config.cluster.address)
        rays = connection.__enter__()
    except (LookupError, ValueError) as error:
        raise UsageError(str(error.args[0])) from error
    except ConnectionError as error:
        raise PipelineError(str(error)) from error
    with ExitStack() as stack:
        stack.push(connection)
        yield rays


@contextmanager
def _notes(run: Run) -> Iterator[Path]:
    """Make a folder for notes in a run, where a killed driver may have left its own."""
    for old in run.path.glob(".notes-*"):
        shutil.rmtree(old, ignore_errors=True)
    with notes_folder(run.path) as folder:
        yield folder


@contextmanager
def notes_folder(parent: Path) -> Iterator[Path]:
    """Make a folder, seen by all nodes, where actors note what they are doing.

    A killed actor may write there to the last: what cannot be removed does no harm.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".notes-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder).resolve()


def workers(settings: Any, rays: Cluster, memory: float | None, keys: int) -> int:
    """Return how many workers to start: as asked or as many as fit, but no more than there is work."""
    room = rays.room(settings.cpus, memory)
    asked = settings.workers or max(1, room)
    if asked > room:
        each = f"simulate.cpus={settings.cpus:g}"
        each += f" and simulate.memory={settings.memory}" if memory else ""
        raise UsageError(
            f"simulate.workers={asked} with {each} each do not fit: the cluster has {rays.cpus:g} cores "
            f"and {rays.memory / 1e9:.1f} GB on {rays.nodes} node(s), room for {room}"
        )
    return min(asked, keys)


def outcomes(retry: str | None) -> tuple[Outcome, ...]:
    """Return which outcomes are simulated again; `UsageError` unless `retry` is one of `RETRIES`, or None."""
    if retry is None:
        return ()
    if retry not in RETRIES:
        raise UsageError(f"retry = {retry!r}: valid are {', '.join(RETRIES)}")
    bad = tuple(outcome for outcome in Outcome if outcome is not Outcome.OK)
    return bad if retry == "all" else (Outcome[retry.upper()],)


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


def _log(log: Log | None, stream: str, event: dict[str, Any]) -> None:
    if log is not None:
        log({"event": "simulate", "stream": stream, **event})
