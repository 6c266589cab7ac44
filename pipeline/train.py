"""The training stage: from a store to a posterior, in this process or on Ray Train workers.

A training lives in the folder of its key. All that decides the result is in the key, so a repeat finds
it done or continues it, and another budget or estimator is another training beside it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import estimators
from pipeline.config import Config
from pipeline.errors import PipelineError, Stopped, UsageError
from pipeline.progress import Progress, duration, say
from pipeline.row_weights import effective_share
from pipeline.run import Run, write_whole
from pipeline.stop import Stop
from pipeline.threads import threads
from pipeline.training import checkpoint
from pipeline.training.keeper import Event, Keeper
from pipeline.training.loop import Loop, Team
from pipeline.training.setup import Training

DONE, POSTERIOR = "done.json", "posterior"
EFFECTIVE = 0.8  # share of weighted rows; draws of the prior keep more than nine tenths


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    key: str
    directory: Path
    steps: int
    best_validation_loss: float | None
    seconds: float
    store_digest: str
    train_rows: int
    validation_rows: int

    @classmethod
    def of(cls, training: Training, loop: Loop) -> TrainResult:
        return cls(
            key=training.key,
            directory=training.directory,
            steps=loop.step,
            best_validation_loss=loop.best_loss,
            seconds=round(loop.seconds, 3),
            store_digest=training.digest,
            train_rows=len(training.table.train),
            validation_rows=len(training.table.validation),
        )

    @classmethod
    def read(cls, directory: Path) -> TrainResult | None:
        """Return the result of a finished training, None if it is not finished."""
        try:
            values = json.loads((directory / DONE).read_text(encoding="utf-8"))
            return cls(**values, directory=directory)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self) -> None:
        """Mark the training as finished."""
        values = asdict(self)
        del values["directory"]
        write_whole(self.directory / DONE, json.dumps(values, indent=1))


def train(
    config: Config, run: Run, *, stop: Stop, log: Callable[[Event], None] | None = None
) -> TrainResult:
    """Train the configured estimator on the budget, continue where it stopped, or find it done.

    Arguments:
        config: the whole configuration.
        run: the run directory; its training store holds the budget.
        stop: request to commit and leave.
        log: takes the events for the journal.

    Raises:
        UsageError: simulations are missing, too few rows, or an estimator that cannot be built.
        Stopped: asked to stop or out of time; the state is saved and a repeat continues.
        PipelineError: training diverged, or another process runs this training.
    """
    training = Training(config, run)
    with _alone(training.directory):
        result = TrainResult.read(training.directory)
        if result is None:
            _train(training, stop, log or (lambda event: None))
            result = TrainResult.read(training.directory)
        else:
            say(f"train: {training.key} is done ({result.steps} steps)")
    if result is None:
        raise PipelineError(f"training {training.key} ended without a result")
    run.write_latest(training.key)
    return result


def _train(training: Training, stop: Stop, log: Callable[[Event], None]) -> None:
    rows = f"{len(training.table.train)} rows, {len(training.table.validation)} for validation"
    where = "in memory" if training.resident else "streamed"
    say(f"train: {training.key}, {rows}, {where}")
    if training.weights is not None:
        _say_weights(training.weights)
    with Progress("train", training.recipe.steps, "steps") as progress:

        def handle(event: Event) -> None:
            if event["event"] == "train":
                log({**event, "training": training.key})
            elif event["event"] == "begin":
                progress.done = progress.start_done = event["step"]
                progress.started = time.monotonic()
            else:
                progress.update(event["step"], event["info"])

        if training.config.train.workers:
            from pipeline.training.workers import fit_on_workers

            reason = fit_on_workers(training, stop, handle)
        else:
            reason = fit_here(training, stop, handle)
    if reason:
        raise Stopped(f"train stopped by {reason}; repeat the same command to continue")


def _say_weights(weights: np.ndarray) -> None:
    share = effective_share(weights)
    doubt = "" if share > EFFECTIVE else "; are the parameters draws of the prior?"
    say(f"train: rows are weighted by the prior and count as {share:.1%} of their number{doubt}")


def fit_here(training: Training, stop: Stop, emit: Callable[[Event], None]) -> str:
    """Train in this process, which gets its threads and random numbers back afterwards."""
    settings = training.config.train
    if settings.gpu and not torch.cuda.is_available():
        raise UsageError("train.gpu=true, but this machine has no GPU that torch can use")
    team = Team(device="cuda" if settings.gpu else "cpu")
    with torch.random.fork_rng(), threads(settings.threads):
        return fit(training, team, lambda: stop.reason, emit)


def fit(
    training: Training,
    team: Team,
    stopping: Callable[[], str],
    emit: Callable[[Event], None],
) -> str:
    """Train on this rank; return why it stopped early on request, "" when it is finished.

    The rank 0 writes the posterior and, as the last, the mark that the training is finished.
    """
    estimator = training.estimator(training.table.sample()).to(team.device)
    loop = Loop(estimator, training.recipe, training.table.held_out(), team)
    _resume(loop, training)
    emit({"event": "begin", "step": loop.step})
    settings = training.config.train
    keeper = Keeper(
        training.directory,
        layout=training.layout,
        every=settings.checkpoint_seconds,
        walltime=settings.walltime,
        stopping=stopping,
        emit=emit,
    )
    batches = training.batches(team).batches(loop.step)
    try:
        finished = loop.run(batches, keeper)
    finally:
        batches.close()
    if not finished:
        return keeper.reason or "rank 0"
    if team.rank == 0:
        loop.finish()
        keeper.write_curves(loop)
        estimators.save(training.directory / POSTERIOR, loop.estimator, training.provenance(loop))
        TrainResult.of(training, loop).write()
        checkpoint.remove(training.directory)
    return ""


def _resume(loop: Loop, training: Training) -> None:
    state = checkpoint.read(training.directory)
    if state is not None:
        layout = state.pop("layout")
        try:
            loop.load(state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise PipelineError(
                f"the state in {training.directory} does not fit this estimator ({error}); "
                "delete the folder to train anew"
            ) from error
        if loop.team.rank == 0:
            at = f"step {loop.step}, {duration(loop.seconds)} of training"
            say(f"train: continues at {at}")
            if layout != training.layout:
                say(f"train: rows now come from {training.layout}, not {layout}: in another order")
    (step,) = loop.team.follow(loop.step)
    if step != loop.step:
        raise PipelineError(
            f"rank {loop.team.rank} found the state of step {loop.step}, rank 0 that of {step:.0f}: "
            f"{training.directory} must be on a file system that all nodes share"
        )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the training's lock; a `PipelineError` if another process does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(
                f"another process is training {directory.name}: wait for it or stop it"
            ) from None
        yield
