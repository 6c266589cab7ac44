"""The simulation stage: one driver brings a store up to its budget with workers that may die.

The workers are child processes: of this one for as long as the work takes seconds, else of agents, which are
Ray actors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import cloudpickle

import cluster
from cluster.connection import RayCluster
from pipeline.errors import PipelineError, UsageError
from pipeline.events import Recorder
from pipeline.progress import Progress, log
from pipeline.run import RunDirectory
from pipeline.simulate import sources
from pipeline.simulate.agent_driver import AgentDriver
from pipeline.simulate.brief import Brief, begins_here, this_machine
from pipeline.simulate.driver import Driver
from pipeline.simulate.process_pool import ProcessPool
from pipeline.simulate.scratch import notes_folder
from pipeline.simulate.setup import (
    Approve,
    SimulateResult,
    SimulationCost,
    check_failed,
    identity,
    retried_outcomes,
    spec_of,
    worker_count,
    worker_memory,
    worker_setup,
)
from pipeline.simulate.store_session import StoreSession
from pipeline.simulate.target import Target
from pipeline.simulate.work import AGENT_TARGET, Work
from pipeline.stop import Stop
from pipeline.store import Outcome, Rows, Store
from pipeline.store.ranges import Ranges

__all__ = ["SimulateResult", "connected", "simulate", "simulate_target"]


def simulate(
    config: Any,
    run: RunDirectory,
    stream: str = "train",
    *,
    stop: Stop,
    retry: str | None = None,
    record: Recorder | None = None,
    approve: Approve = lambda spec, rows: None,
    kept: ExitStack | None = None,
) -> SimulateResult:
    """Simulate the ids below the budget that the store lacks.

    Arguments:
        config: the configuration; see `docs/configuration.md`.
        run: the run directory.
        stream: "train" or "test"; the budget of "test" is `config.test`.
        stop: polled; a request leaves with everything finished committed.
        retry: also simulate again what has this outcome, one of `pipeline.simulate.setup.RETRIES`.
        record: receives events for the journal.
        approve: is called with the first outputs before they are kept; a `UsageError` ends the stage.
        kept: keeps Ray, where it is started, for further calls.

    Raises:
        UsageError: the store holds simulations of another simulator or of another source of it, outputs change
            shape or are of a kind that cannot be kept, or the cluster is too small.
        TooManyFailed: more than the share `config.max_failed` of the budget is not ok; all is committed.
        Stopped: a stop was requested; a repeat continues.
        PipelineError: Ray died, a worker runs other code, or a file could not be written.
    """
    target = Target(stream, spec_of(config, stream), run.store(stream), config.budgets[stream])
    result = simulate_target(
        config, run, target, stop=stop, retry=retry, record=record, approve=approve, kept=kept
    )
    check_failed(stream, result.counts, config.max_failed)
    return result


def simulate_target(
    config: Any,
    run: RunDirectory,
    target: Target,
    *,
    stop: Stop,
    retry: str | None = None,
    record: Recorder | None = None,
    approve: Approve = lambda spec, rows: None,
    kept: ExitStack | None = None,
) -> SimulateResult:
    """Simulate the ids that a store lacks, whatever their parameters follow from; see `simulate`."""
    spec, budget, stream = target.spec, target.budget, target.name
    tell = partial(_record, record, stream)
    store = StoreSession(target.path, identity(spec), int(config.store.shard_mb * 2**20))
    stop.check("simulate")
    with store:
        wanted = store.wanted(budget, retried_outcomes(retry))
        check = partial(approve, spec)
        if len(wanted):
            sources.check(store.path, spec.simulator, config.simulate.accept_source)
            if known := store.example():
                check(known)
            if store.exists:
                sources.record(store.path, spec.simulator)
            work = _Simulation(config, run, target, store, stop, tell, check, kept)
            cost = work.run(wanted, retry)
        else:
            store.create(None)
            cost = SimulationCost()
    if not store.exists:  # stopped before the first outputs were known
        stop.check(f"simulate {stream}")
    counts = Store.open(target.path).counts(budget)
    tell({"event": "simulated", "budget": budget, "counts": counts, **asdict(cost)})
    if counts["missing"]:
        stop.check(f"simulate {stream}")
        raise PipelineError(
            f"{counts['missing']} simulations were lost: repeat the command to run them again"
        )
    return SimulateResult(stream, budget, counts, **asdict(cost))


@dataclass(frozen=True)
class _Simulation:
    """The simulation of the ids that a store lacks."""

    config: Any
    run_: RunDirectory
    target: Target
    store: StoreSession
    stop: Stop
    record: Recorder
    check: Callable[[Rows], None]
    kept: ExitStack | None

    def run(self, wanted: Ranges, retry: str | None) -> SimulationCost:
        """Simulate the wanted ids and commit them: in child processes what takes seconds, else with Ray."""
        cost, again = SimulationCost(), retried_outcomes(retry)
        if begins_here(self.config, self.store.example(), len(wanted)):
            cost = self._in_processes(wanted)
            if self.stop.requested or self.config.simulate.ray is False:
                return cost
            again = () if cost.simulated else again
            wanted = self.store.wanted(self.target.budget, again)
        return cost + self._with_ray(wanted, again) if len(wanted) else cost

    def _in_processes(self, wanted: Ranges) -> SimulationCost:
        """Simulate in child processes, until it is known that the rest takes long."""
        spec, settings = self.target.spec, self.config.simulate
        work = Work(wanted, spec.key_size)
        size = worker_count(settings, this_machine(), wanted.keys(spec.key_size))
        stop = self.stop if settings.ray is False else Brief(self.stop, work, size)
        with notes_folder() as notes:
            setup = worker_setup(spec, cloudpickle.dumps(spec), notes)
            pool = ProcessPool(setup, size, settings.cpus)
            driver = partial(Driver, spec, self.store, pool, work)
            return self._drive(driver, pool, size, work, stop, lambda: True)

    def _with_ray(self, wanted: Ranges, again: tuple[Outcome, ...]) -> SimulationCost:
        """Simulate with a connection to Ray for as long as that takes."""
        from pipeline.simulate.actor_pool import ActorPool, pickled  # imports Ray
        from pipeline.simulate.agent_pool import AgentPool, agent_sizes

        spec, settings = self.target.spec, self.config.simulate
        with ExitStack() as own, notes_folder(self.run_.path) as notes:
            ray_cluster = (self.kept or own).enter_context(connected(self.config))
            size = worker_count(settings, ray_cluster, wanted.keys(spec.key_size))
            setup = worker_setup(spec, pickled(spec), notes)
            memory = worker_memory(settings)
            if settings.gpus:  # Ray hands them out to actors, one by one
                actors = ActorPool(setup, size, settings.cpus, memory, settings.gpus)
                work = Work(wanted, spec.key_size)
                plain = partial(Driver, spec, self.store, actors, work)
                return self._drive(plain, actors, size, work, self.stop, ray_cluster.alive)
            sizes = agent_sizes(size, settings.cpus, memory, settings.per_agent)
            pool = AgentPool(setup, sizes, settings.cpus, memory)
            work = Work(wanted, spec.key_size, AGENT_TARGET)
            driver = partial(AgentDriver, again, spec, self.store, pool, work)
            return self._drive(driver, pool, sum(sizes), work, self.stop, ray_cluster.alive)

    def _drive(
        self,
        make: Callable[..., Driver],
        pool: Any,
        size: int,
        work: Work,
        stop: Any,
        alive: Callable[[], bool],
    ) -> SimulationCost:
        """Run a driver until the work is done or a stop is requested; commit what is finished."""
        presence, budget = self.run_.presence(), self.target.budget
        driver = make(lambda: presence.there() and alive(), stop, self.check)
        try:
            with Progress("simulate", budget, self.target.unit, budget - len(work)) as progress:
                driver.run(progress, self.record)
        finally:
            if alive():
                pool.dismiss()
        seconds = driver.seconds
        self.store.finish()
        return SimulationCost(driver.rows, size, driver.busy, seconds)


@contextmanager
def connected(config: Any) -> Iterator[RayCluster]:
    """Connect to Ray as configured.

    Raises:
        UsageError: the configuration names no such backend, or an address that the backend cannot use.
        PipelineError: Ray could not be reached or started.
    """
    if warning := cluster.caution(config.cluster.backend):
        log(f"simulate: {warning}")
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        log("simulate: starts or joins Ray ...")
    try:
        connection = cluster.connect(config.cluster.backend, config.cluster.address)
        ray_cluster = connection.__enter__()
    except (LookupError, ValueError) as error:
        raise UsageError(str(error.args[0])) from error
    except ConnectionError as error:
        raise PipelineError(str(error)) from error
    with ExitStack() as stack:
        stack.push(connection)
        yield ray_cluster


def _record(record: Recorder | None, stream: str, event: dict[str, Any]) -> None:
    if record is not None:
        record({"event": "simulate", "stream": stream, **event})
