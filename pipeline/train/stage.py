"""The training stage: from a store to a posterior, in this process or on Ray Train workers.

A training has a folder named by its key. The key follows from everything that determines the result, so that a
repeat finds the training finished or continues it, and another budget or estimator has another folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Config
from pipeline.errors import DamagedError, PipelineError, Stopped, UsageError
from pipeline.files import writing
from pipeline.locks import try_lock
from pipeline.progress import Progress, log
from pipeline.results import DONE, POSTERIOR, Results, repeated
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.train import checkpoint
from pipeline.train.checkpointer import Event
from pipeline.train.fit import fit
from pipeline.train.ranks import Ranks
from pipeline.train.result import TrainResult
from pipeline.train.row_weights import effective_share
from pipeline.train.setup import MOST_WEIGHTED, Training
from pipeline.train.threads import threads

EFFECTIVE = 0.8  # effective share of weighted rows; it is above 0.9 for draws of the prior


def train(
    config: Config, run: RunDirectory, *, stop: Stop, record: Callable[[Event], None] | None = None
) -> TrainResult:
    """Train the configured estimator on the budget, continue where it stopped, or find it done.

    Arguments:
        config: the whole configuration.
        run: the run directory; its training store holds the budget.
        stop: request to commit and leave.
        record: takes the events for the journal.

    Returns:
        The result of the finished training.

    Raises:
        UsageError: simulations are missing, too few rows, or an estimator that cannot be built.
        Stopped: asked to stop or out of time; the state is saved and a repeat continues.
        PipelineError: training diverged, or another process runs this training.
    """
    training, record = Training(config, run), record or (lambda event: None)
    if training.config != config:
        log(f"train: estimator {config.estimator.name}: {_told(training.config)}")
    results = Results(run, training.key)
    with _alone(training.directory):
        result = _finished(results)
        if result is None:
            _train(training, stop, record)
            result = TrainResult.read(results)
            if result is not None:
                _record_end(result, record)
        else:
            _keep_config(results, training.config)
            log(f"train: {training.key} is done ({result.steps} steps)")
            if not _is_latest(run, training.key):
                record({"event": "start", "training": training.key})
    if result is None:
        raise PipelineError(f"training {training.key} ended without a result")
    run.write_latest(training.key)
    return result


def _told(config: Config) -> str:
    settings = config.estimator.settings
    given = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{config.estimator.name} with {given}"


def _finished(results: Results) -> TrainResult | None:
    """Return the result of a finished training; None if it must be trained again, and report why."""
    results.restore()
    try:
        result = TrainResult.read(results)
        left = (results.folder / POSTERIOR).exists() and not checkpoint.there(results.folder)
        if result is None and left:
            log(f"train: {results.folder / DONE} is missing; trains anew")
        return result
    except DamagedError as error:
        log(f"train: {error}; trains anew")
        (results.folder / DONE).unlink(missing_ok=True)
        return None


def _keep_config(results: Results, config: Config) -> None:
    """Keep the configuration that the training began with; the journal has it, if that was earlier."""
    try:
        if results.config() is not None:
            return
    except (DamagedError, UsageError) as error:
        log(f"train: {error}; it is written anew")
    results.write_config(results.recorded_config() or config.plain())


def _is_latest(run: RunDirectory, key: str) -> bool:
    try:
        return run.read_latest() == key
    except (FileNotFoundError, DamagedError):
        return False


def _train(training: Training, stop: Stop, record: Callable[[Event], None]) -> None:
    rows = f"{training.table.train_rows} rows, {training.table.validation_rows} for validation"
    where = "in memory" if training.resident else "streamed"
    log(f"train: {training.key}, {rows}, {where}")
    if training.weights is not None:
        _say_weights(training.weights, training.proposed)
    elif training.weightable:
        log(f"train: more than {MOST_WEIGHTED} rows are not weighted by the prior: equal weights")
    with Progress("train", training.hyperparameters.steps, "steps") as progress:

        def handle(event: Event) -> None:
            if event["event"] in ("train", "pace"):
                record({**event, "training": training.key})
            elif event["event"] == "begin":  # its rows could be loaded
                _keep_config(Results(training.run, training.key), training.config)
                record({"event": "start", "training": training.key})
                progress.done = progress.start_done = event["step"]
                progress.started = time.monotonic()
            else:
                progress.update(event["step"], event["info"])

        if training.config.train.workers:
            from pipeline.train.workers import fit_on_workers

            reason = fit_on_workers(training, stop, handle)
        else:
            reason = fit_here(training, stop, handle)
    if reason:
        raise Stopped(f"train stopped by {reason}; repeat the same command to continue")


def _record_end(result: TrainResult, record: Callable[[Event], None]) -> None:
    kept: dict[str, Any] = {"kept_step": result.kept_step, "minima": list(result.minima)}
    kept["documents"] = repeated(result.directory)
    record({"event": "trained", "training": result.key, "steps": result.steps, **kept})


def _say_weights(weights: np.ndarray, proposed: bool) -> None:
    share = effective_share(weights)
    doubt = "" if share > EFFECTIVE or proposed else "; are the parameters draws of the prior?"
    log(f"train: rows are weighted by the prior and count as {share:.1%} of their number{doubt}")


def fit_here(training: Training, stop: Stop, emit: Callable[[Event], None]) -> str:
    """Train in this process; its number of threads and its random numbers are restored afterwards."""
    settings = training.config.train
    if settings.gpu and not torch.cuda.is_available():
        raise UsageError("train.gpu=true, but this machine has no GPU that torch can use")
    ranks, presence = Ranks(device="cuda" if settings.gpu else "cpu"), training.run.presence()
    with torch.random.fork_rng(), threads(settings.threads):
        return fit(training, ranks, lambda: stop.reason if presence.there() else "", emit)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock of the training.

    Raises:
        PipelineError: another process holds it.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    with lock as file:
        if not try_lock(file):
            raise PipelineError(
                f"another process is training {directory.name}: wait for it or stop it"
            )
        yield
