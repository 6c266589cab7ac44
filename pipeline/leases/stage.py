"""The simulation stage without Ray: this process simulates what others that share the run leave to it."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cluster
from cluster.allocation import Grant
from cluster.connection import Cluster, usable_cpus
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.leases.campaign import Campaign, Spent
from pipeline.leases.lease import Lost
from pipeline.leases.member import Member
from pipeline.leases.plan import Plan
from pipeline.leases.work import LeasedWork
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.simulate import (
    SimulateResult,
    check_failed,
    identity,
    job,
    outcomes,
    simulation_of,
    workers,
)
from pipeline.simulation.ledger import Ledger
from pipeline.simulation.processes import Processes
from pipeline.simulation.session import Session
from pipeline.simulation.task import Simulation
from pipeline.size import read_bytes
from pipeline.stop import Stop
from pipeline.store import Store

Log = Callable[[dict[str, Any]], None]


class Share(Progress):
    """This process' part of the simulations; how much the others have left to do it does not know."""

    def line(self, info: str) -> str:
        extra = f", {info}" if info else ""
        return f"{self.stage}: {self.done} {self.unit} here, {self.rate:.4g}/s{extra}"


def simulate(
    config: Config,
    run: Run,
    stream: str = "train",
    *,
    stop: Stop,
    retry: str | None = None,
    log: Log | None = None,
) -> SimulateResult:
    """Simulate, with all other processes that do the same on this run, until the budget is complete.

    The rows, and so the digest, are those of `pipeline.simulate.simulate`; see `docs/leases.md`.

    Args:
        config: the configuration, the same for all.
        run: the run directory, on a file system that all share.
        stream: "train" or "test".
        stop: polled; a request leaves with everything finished durable.
        retry: also simulate again, once, what has this outcome, one of `pipeline.simulate.RETRIES`.
        log: takes one event, from the process that finishes.

    Raises:
        UsageError: the store is another simulator's, or outputs change shape.
        TooManyFailed: more than the share `config.max_failed` of the budget is not ok.
        Stopped: a stop was requested; a repeat continues.
        PipelineError: another process has other code, or the disk refused.
    """
    simulation = simulation_of(config, stream)
    budget = int(config.budget if stream == "train" else config.test)
    store = Store.open_or_create(
        run.store(stream), identity(simulation), shard_bytes=int(config.store.shard_mb * 2**20)
    )
    term, digest = config.simulate.term, simulation.simulator.source_digest()
    mine, again = Spent(), outcomes(retry)
    campaign = Campaign(store, budget, term, simulation.block, digest)
    while not campaign.complete(again):
        stop.check(f"simulate {stream}")
        plan = campaign.plan(config.simulate.leases, again, stop)
        total = None
        while plan is not None and total is None and campaign.lasts(plan) and not stop.requested:
            if campaign.has_work(plan):
                mine = _sum(mine, _take_part(config, simulation, campaign, plan, stop))
            total = campaign.finish(plan, stop)
        if total is not None and log is not None:
            log({"event": "simulated", "stream": stream, "budget": budget,
                 "counts": store.counts(budget), **asdict(total)})  # fmt: skip
        if plan is not None and set(again) <= set(plan.again) and not stop.requested:
            again = ()
    counts = store.counts(budget)
    check_failed(stream, counts, config.max_failed)
    return SimulateResult(stream, budget, counts, **asdict(mine))


def _take_part(
    config: Config, simulation: Simulation, campaign: Campaign, plan: Plan, stop: Stop
) -> Spent:
    """Simulate until no block is to be had, or others have taken this process for dead; return what it cost."""
    try:
        with (
            campaign.member(plan) as (holder, member, work),
            tempfile.TemporaryDirectory(
                prefix="sbiflow-notes-", ignore_cleanup_errors=True
            ) as notes,
        ):
            spent = _simulate(config, simulation, (member, work), Path(notes), stop)
            campaign.note(holder.name, spent)
        return spent
    except Lost:
        return Spent()


def _simulate(
    config: Config, simulation: Simulation, part: tuple[Member, LeasedWork], notes: Path, stop: Stop
) -> Spent:
    member, work = part
    size = workers(config.simulate, _here(config), _memory(config), len(work.plan.ids))
    store = member.store
    ledger = Ledger(store.path, store.identity, store.shard_bytes, member)
    crew = Processes(job(simulation, pickle.dumps(simulation), notes), size, config.simulate.cpus)
    session = Session(simulation, ledger, crew, work, lambda: True, stop)
    try:
        with Share("simulate", len(work.plan.ids), "simulations") as progress:
            session.run(progress, lambda event: None)
    except PipelineError as error:
        if not member.spool_directory.exists():
            raise Lost(str(error)) from error
        raise
    finally:
        crew.dismiss()
        ledger.close()
    return Spent(session.rows, size, session.busy, session.seconds)


def _memory(config: Config) -> float | None:
    return None if config.simulate.memory is None else read_bytes(config.simulate.memory)


def _here(config: Config) -> Cluster:
    """Return what this process may use: what a batch system granted it, or this machine."""
    try:
        grant = cluster.system(config.cluster.backend).granted(os.environ)
    except LookupError:
        grant = Grant(usable_cpus())
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(grant.cpus, grant.memory or installed, 1, lambda: True)


def _sum(one: Spent, other: Spent) -> Spent:
    return Spent(
        one.simulated + other.simulated,
        max(one.workers, other.workers),
        one.busy + other.busy,
        one.seconds + other.seconds,
    )
