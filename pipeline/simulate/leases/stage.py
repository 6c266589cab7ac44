"""The simulation stage without Ray: any number of processes share a budget, and this is one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import cloudpickle

import cluster
from cluster.allocation import Grant
from cluster.connection import RayCluster, usable_cpus
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.events import Recorder
from pipeline.progress import Progress
from pipeline.run import Presence, RunDirectory
from pipeline.simulate import sources
from pipeline.simulate.driver import Driver
from pipeline.simulate.leases.lease import LeaseLost
from pipeline.simulate.leases.plan import BlockPlan
from pipeline.simulate.leases.shared_budget import SharedBudget
from pipeline.simulate.leases.shared_writer import SharedWriter
from pipeline.simulate.leases.work import LeasedWork
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
    worker_setup,
)
from pipeline.simulate.spec import SimulationSpec
from pipeline.simulate.store_session import StoreSession
from pipeline.stop import Stop
from pipeline.store import Rows, Store
from pipeline.store.mend_schema import mend_schema


class ShareProgress(Progress):
    """Progress of this process' share of the simulations; what the others have left to do is not known here."""

    def line(self, info: str) -> str:
        extra = f", {info}" if info else ""
        return f"{self.stage}: {self.done} {self.unit} here, {self.rate:.4g}/s{extra}"


def simulate(
    config: Config,
    run: RunDirectory,
    stream: str = "train",
    *,
    stop: Stop,
    retry: str | None = None,
    record: Recorder | None = None,
    approve: Approve = lambda spec, rows: None,
) -> SimulateResult:
    """Simulate, with all other processes that do the same on this run, until the budget is complete.

    The rows, and so the digest, are those of `pipeline.simulate.stage.simulate`; see `docs/leases.md`.

    Arguments:
        config: the configuration, the same in all processes.
        run: the run directory, on a file system that all processes share.
        stream: "train" or "test".
        stop: polled; a request leaves with everything finished durable.
        retry: also simulate again, once, what has this outcome, one of `pipeline.simulate.setup.RETRIES`.
        record: receives one event, from the process that finishes the budget.
        approve: is called with the first outputs before they are kept.

    Raises:
        UsageError: the store holds simulations of another simulator or of another source of it, or outputs change
            shape or are of a kind that cannot be kept.
        TooManyFailed: more than the share `config.max_failed` of the budget is not ok.
        Stopped: a stop was requested; a repeat continues.
        PipelineError: another process runs other code, or a file could not be written.
    """
    spec = spec_of(config, stream)
    budget = config.budgets[stream]
    store = Store.open_or_create(
        run.store(stream), identity(spec), shard_bytes=int(config.store.shard_mb * 2**20)
    )
    mend_schema(store)
    again, presence = retried_outcomes(retry), run.presence()
    cost = SimulationCost()
    shared = SharedBudget(store, budget, config.simulate.term, spec.key_size, spec.simulator)
    part = _Participation(config, spec, shared, stop, presence, partial(approve, spec))
    while not shared.complete(again):
        stop.check(f"simulate {stream}")
        sources.check(store.path, spec.simulator, config.simulate.accept_source)
        plan = shared.plan(config.simulate.leases, again, stop)
        total = None
        while plan is not None and total is None and not stop.requested and shared.is_current(plan):
            if shared.has_work(plan):
                cost += part.simulate(plan)
            presence.there()
            total = shared.finish(plan, stop)
        presence.there()
        if total is not None and record is not None:
            record({"event": "simulated", "stream": stream, "budget": budget,
                 "counts": store.counts(budget), **asdict(total)})  # fmt: skip
        if plan is not None and set(again) <= set(plan.again) and not stop.requested:
            again = ()
    counts = store.counts(budget)
    check_failed(stream, counts, config.max_failed)
    return SimulateResult(stream, budget, counts, **asdict(cost))


@dataclass(frozen=True)
class _Participation:
    """This process' part in a shared budget."""

    config: Config
    spec: SimulationSpec
    shared: SharedBudget
    stop: Stop
    presence: Presence
    check: Callable[[Rows], None]  # called with the first outputs

    def simulate(self, plan: BlockPlan) -> SimulationCost:
        """Simulate until no block is free, or until this process has lost its leases; return what it cost."""
        try:
            with self.shared.participant(plan) as (holder, writer, work):
                cost = self._drive(writer, work)
                self.shared.record_cost(holder.name, cost)
            return cost
        except LeaseLost:
            return SimulationCost()

    def _drive(self, writer: SharedWriter, work: LeasedWork) -> SimulationCost:
        settings, spec, store = self.config.simulate, self.spec, writer.store
        size = worker_count(settings, _granted(self.config), len(work.plan.ids))
        session = StoreSession(store.path, store.identity, store.shard_bytes, writer)
        with notes_folder() as notes:
            setup = worker_setup(spec, cloudpickle.dumps(spec), notes)
            pool = ProcessPool(setup, size, settings.cpus)
            alive = self.presence.there
            driver = Driver(spec, session, pool, work, alive, self.stop, self.check)
            try:
                with ShareProgress("simulate", len(work.plan.ids), "simulations") as progress:
                    driver.run(progress, lambda event: None)
            except PipelineError as error:
                self.presence.there()
                if not writer.spool_directory.exists():
                    raise LeaseLost(str(error)) from error
                raise
            finally:
                pool.dismiss()
                session.close()
        return SimulationCost(driver.rows, size, driver.busy, driver.seconds)


def _granted(config: Config) -> RayCluster:
    """Return what this process may use: what a batch system granted it, or this machine."""
    try:
        grant = cluster.system(config.cluster.backend).granted(os.environ)
    except LookupError:
        grant = Grant(usable_cpus())
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return RayCluster(grant.cpus, grant.memory or installed, 1, lambda: True)
