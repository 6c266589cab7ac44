"""All stages in order: simulate, train, evaluate, report, track. What is complete is skipped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from evaluation.journal import Journal
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.progress import say
from pipeline.run import Run
from pipeline.stop import Stop

if TYPE_CHECKING:
    from pipeline.ready_made import Pairs

Log = Callable[[dict[str, Any]], None]


def _log(run: Run, stage: str) -> Log:
    journal = Journal(run.journal)

    def log(event: dict[str, Any]) -> None:
        journal.append({"stage": stage, **event})

    return log


def begin(config: Config, run: Run, stage: str) -> Log:
    """Keep the configuration and return the stage's way into the journal."""
    configuration.save(config, run)
    log = _log(run, stage)
    log({"event": "start", "config": config.plain(), "config_digest": config.digest()})
    return log


def simulate(config: Config, run: Run, stop: Stop, retry: str | None = None) -> dict[str, Any]:
    """Bring the training and the test simulations up to their budgets, in one Ray for both."""
    from pipeline import ready_made
    from pipeline.simulate import connected
    from pipeline.simulate import simulate as run_stream

    if config.simulator.name == ready_made.NAME:
        ready_made.require(config, run, retry)
        return {}
    log = begin(config, run, "simulate")
    budgets = {"train": config.budget, "test": config.test}
    short = [stream for stream, budget in budgets.items() if _missing(run, stream, budget)]
    with connected(config) if len(short) > 1 else nullcontext():
        return {
            stream: run_stream(config, run, stream, stop=stop, retry=retry, log=log)
            for stream, budget in budgets.items()
            if budget
        }


def share(config: Config, run: Run, stop: Stop, retry: str | None = None) -> dict[str, Any]:
    """Do the same without Ray, as one of any number of processes that share the run; one writes the journal."""
    from pipeline import ready_made
    from pipeline.leases.stage import simulate as run_stream

    if config.simulator.name == ready_made.NAME:
        ready_made.require(config, run, retry)
        return {}
    configuration.save(config, run)
    log = _log(run, "simulate")
    budgets = {"train": config.budget, "test": config.test}
    return {
        stream: run_stream(config, run, stream, stop=stop, retry=retry, log=log)
        for stream, budget in budgets.items()
        if budget
    }


def _missing(run: Run, stream: str, budget: int) -> int:
    from pipeline.store import Store

    path = run.store(stream)
    return Store.open(path).counts(budget)["missing"] if path.exists() else budget


def take(config: Config, run: Run, pairs: Pairs) -> None:
    """Import ready-made simulations."""
    from pipeline.ready_made import import_pairs

    stores = import_pairs(config, run, pairs)
    log = begin(config, run, "simulate")
    for stream, store in stores.items():
        log({"event": "simulated", "stream": stream, "counts": store.counts(), "seconds": 0.0})


def train(config: Config, run: Run, stop: Stop) -> Any:
    """Train the configured estimator on the budget, or resume, or find it done."""
    from pipeline.train import train as fit

    return fit(config, run, stop=stop, log=begin(config, run, "train"))


def evaluate(config: Config, run: Run, stop: Stop) -> dict[str, Any]:
    """Measure the latest posterior on the test simulations."""
    from pipeline.evaluate import evaluate as measure

    return measure(config, run, stop=stop, log=begin(config, run, "evaluate"))


def publish(config: Config, run: Run) -> None:
    """Write the report and bring MLflow up to the journal."""
    from pipeline.report import report
    from pipeline.track import sync

    report(run)
    sync(run, config.track.uri or run.tracking_uri, config.track.experiment or config.name)


def everything(config: Config, run: Run, stop: Stop) -> dict[str, Any]:
    """Run all stages; a repeat does only what is missing."""
    simulator, estimator = config.simulator.name, config.estimator.name
    say(
        f"run: {run.path}: {config.budget} simulations of {simulator}, {config.test} to test {estimator}"
    )
    simulate(config, run, stop)
    stop.check("run")
    train(config, run, stop)
    stop.check("run")
    result = evaluate(config, run, stop)
    say("report and tracking ...")
    publish(config, run)
    return result
