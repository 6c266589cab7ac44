"""All stages in order: simulate, train, evaluate, report, track. What is complete is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config as configuration
from pipeline import events
from pipeline.config import IMPORTED, Config
from pipeline.events import Recorder
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.stop import Stop

JOBS = "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"

if TYPE_CHECKING:
    from pipeline.imported.stage import Pairs


def configure(
    run: RunDirectory, source: Path | Mapping[str, Any] | None = None, words: Iterable[str] = ()
) -> Config:
    """Return the configuration of a run, as `pipeline.config.resolve` does, if all that it names can be had.

    Raises:
        UsageError: a name that is unknown, or a configuration that is another run's.
    """
    from pipeline.plan.requirements import require

    config = configuration.resolve(run, source, words)
    require(config)
    return config


def begin(config: Config, run: RunDirectory, stage: str) -> Recorder:
    """Return the stage's way into the journal; the event `start`, told where there is work, keeps `config`."""
    events.mend(run)
    configuration.mend(config, run)
    if not run.config.exists():  # a new run, which has no journal yet
        configuration.save(config, run)
    record = events.recorder(run, stage)

    def telling(event: dict[str, Any]) -> None:
        if event["event"] != "start":
            record(event)
            return
        told = {"config": config.plain(), "config_digest": config.digest()}
        record({**event, **told, **({"job": job} if (job := _job()) else {})})
        configuration.save(config, run)

    return telling


def _job() -> str:
    """Return the number of the batch job that this process belongs to, "" outside of one."""
    return next((os.environ[name] for name in JOBS if os.environ.get(name)), "")


def keep(config: Config, run: RunDirectory, stage: str) -> None:
    """Keep the configuration where it is another than the run's."""
    new = not run.config.exists()
    record = begin(config, run, stage)
    if new or configuration.kept(run) != config.plain():
        record({"event": "start"})


def simulate(
    config: Config, run: RunDirectory, stop: Stop, retry: str | None = None, trains: bool = False
) -> dict[str, Any]:
    """Bring the training and the test simulations up to their budgets, in one Ray for both if Ray is needed.

    Outputs that the configured estimator cannot take are refused where it `trains` next.
    """
    from pipeline.imported.stage import require_complete
    from pipeline.plan.approval import approval
    from pipeline.simulate.stage import simulate as run_stream

    if config.simulator.name == IMPORTED:
        require_complete(config, run, retry)
        return {}
    record = begin(config, run, "simulate")
    record({"event": "start"})
    approve = approval(config, run, trains)
    with ExitStack() as kept:
        return {
            stream: run_stream(
                config, run, stream,
                stop=stop, retry=retry, record=record, approve=approve, kept=kept,
            )
            for stream, budget in config.budgets.items()
            if budget
        }  # fmt: skip


def simulate_shared(
    config: Config, run: RunDirectory, stop: Stop, retry: str | None = None
) -> dict[str, Any]:
    """Do the same without Ray, as one of any number of processes that share the run; one writes the journal."""
    from pipeline.imported.stage import require_complete
    from pipeline.plan.approval import approval
    from pipeline.simulate.leases.stage import simulate as run_stream

    if config.simulator.name == IMPORTED:
        require_complete(config, run, retry)
        return {}
    keep(config, run, "simulate")
    record = events.recorder(run, "simulate")
    approve = approval(config, run, False)
    return {
        stream: run_stream(
            config, run, stream, stop=stop, retry=retry, record=record, approve=approve
        )
        for stream, budget in config.budgets.items()
        if budget
    }


def import_simulations(config: Config, run: RunDirectory, pairs: Pairs) -> None:
    """Import ready-made simulations."""
    from pipeline.imported.stage import import_pairs

    stores = import_pairs(config, run, pairs)
    record = begin(config, run, "simulate")
    record({"event": "start"})
    for stream, store in stores.items():
        record({"event": "simulated", "stream": stream, "counts": store.counts(), "seconds": 0.0})


def train(config: Config, run: RunDirectory, stop: Stop) -> Any:
    """Train the configured estimator on the budget, or resume, or find it done."""
    from pipeline.train.stage import train as fit

    return fit(config, run, stop=stop, record=begin(config, run, "train"))


def evaluate(config: Config, run: RunDirectory, stop: Stop) -> dict[str, Any]:
    """Measure the latest posterior on the test simulations, and say in words what the numbers mean."""
    from pipeline.evaluate.stage import evaluate as measure
    from pipeline.report.verdict import verdicts
    from pipeline.results import Results

    result = measure(config, run, stop=stop, record=begin(config, run, "evaluate"))
    done = Results(run, result["posterior"]["key"]).done()
    return result | {"verdicts": verdicts(result, done)}


def tracked(config: Config, run: RunDirectory) -> AbstractContextManager[None]:
    """Have MLflow follow the journal while the commands within work; see `pipeline.track.live`."""
    from pipeline.track.live import tracked as follow

    return follow(config, run)


def abc(
    config: Config, run: RunDirectory, observation: dict[str, Any], stop: Stop
) -> dict[str, Any]:
    """Run ABC for an observation, or resume, or find it done."""
    from pipeline.abc.stage import abc as approximate

    return approximate(config, run, observation, stop=stop, record=begin(config, run, "abc"))


def repair_abc(config: Config, run: RunDirectory, stop: Stop) -> None:
    """Simulate the rows again that the stores of finished ABC runs lack."""
    from pipeline.results import abc_keys

    if not (keys := abc_keys(run)):
        return
    from pipeline.abc.stage import repair  # imports pyABC

    for key in keys:
        repair(config, run, key, stop=stop, record=begin(config, run, "abc"))


def publish(config: Config, run: RunDirectory, stop: Stop, followed: bool = False) -> None:
    """Write the report and bring MLflow up to the journal; a signal ends it at once, a repeat completes it.

    Where MLflow is `followed` up by a process of its own, that does the latter.
    """
    with stop.at_once("report and tracking"):
        from pipeline.report.stage import report
        from pipeline.track.stage import sync

        events.mend(run)
        report(run)
        if not followed:
            name = config.track.experiment or config.name
            sync(run, config.track.uri or run.tracking_uri, name, running=False)


def run(config: Config, target: RunDirectory, stop: Stop) -> dict[str, Any]:
    """Run all stages; a repeat does only what is missing."""
    from pipeline.plan.requirements import require

    require(config, stages=True)
    simulator, estimator = config.simulator.name, config.estimator.name
    log(
        f"run: {target.path}: {config.budget} simulations of {simulator}, {config.test} to test {estimator}"
    )
    with tracked(config, target):
        simulate(config, target, stop, trains=True)
        stop.check("run")
        train(config, target, stop)
        stop.check("run")
        result = evaluate(config, target, stop)
        log("report and tracking ...")
        publish(config, target, stop, followed=config.track.live)
    return result
