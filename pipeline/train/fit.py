"""The work of one rank: train from the last saved state to the end, or until a stop is requested."""

from __future__ import annotations

from collections.abc import Callable

import estimators
from pipeline.errors import PipelineError
from pipeline.files import writing
from pipeline.progress import duration, log
from pipeline.results import POSTERIOR, Results, write_curves
from pipeline.train import checkpoint
from pipeline.train.checkpointer import Checkpointer, Event
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks
from pipeline.train.result import TrainResult
from pipeline.train.setup import Training


def fit(
    training: Training,
    ranks: Ranks,
    stopping: Callable[[], str],
    emit: Callable[[Event], None],
) -> str:
    """Train on this rank.

    Rank 0 writes the posterior, and last of all the file that marks the training as finished.

    Arguments:
        training: what the configuration asks for.
        ranks: those that train together.
        stopping: returns why training should stop, "" if it should not.
        emit: takes the events.

    Returns:
        Why training stopped on request, "" when it is finished.

    Raises:
        PipelineError: training diverged, or the saved state does not fit.
    """
    estimator = training.estimator(training.table.sample()).to(ranks.device)
    loop = Loop(estimator, training.hyperparameters, training.validation_batch(), ranks)
    _resume(loop, training)
    emit({"event": "begin", "step": loop.step})
    settings = training.config.train
    checkpointer = Checkpointer(
        training.directory,
        layout=training.layout,
        every=settings.checkpoint_seconds,
        walltime=settings.walltime,
        stopping=stopping,
        emit=emit,
    )
    batches = training.batches(ranks).batches(loop.step)
    try:
        finished = loop.run(batches, checkpointer)
    finally:
        batches.close()
    if not finished:
        return checkpointer.reason or "rank 0"
    if ranks.rank == 0:
        _write_result(training, loop)
    return ""


def _write_result(training: Training, loop: Loop) -> None:
    """Write curves, posterior and result; the saved states are not needed any more."""
    loop.finish()
    write_curves(training.directory, loop.curves)
    folder = training.directory / POSTERIOR
    with writing(folder):
        estimators.save(folder, loop.estimator, training.provenance(loop))
    TrainResult.of(training, loop).write(Results(training.run, training.key))
    checkpoint.remove(training.directory)


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
        if loop.ranks.rank == 0:
            at = f"step {loop.step}, {duration(loop.seconds)} of training"
            log(f"train: continues at {at}")
            if layout != training.layout:
                log(f"train: rows now come from {training.layout}, not {layout}: in another order")
    (step,) = loop.ranks.broadcast(loop.step)
    if step != loop.step:
        raise PipelineError(
            f"rank {loop.ranks.rank} found the state of step {loop.step}, rank 0 that of {step:.0f}: "
            f"{training.directory} must be on a file system that all nodes share"
        )
