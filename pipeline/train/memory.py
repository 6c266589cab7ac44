"""What to do when a batch does not fit into the memory of a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.ranks import Ranks


@contextmanager
def batch_that_fits(
    attempt: Callable[[Batch], object],
    batch: Batch,
    hyperparameters: Hyperparameters,
    ranks: Ranks,
) -> Iterator[None]:
    """Give a step that runs out of memory an error that names its rows, and how many would fit.

    Arguments:
        attempt: computes the gradients of rows once more, in memory that holds no others.
        batch: the rows of the step.
        hyperparameters, ranks: of the training.

    Raises:
        PipelineError: the memory of the device is exhausted.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        # Behind this block: as long as the error is handled it holds on to the tensors of the step.
        reason = str(error).split(". ")[0]
    rows = math.ceil(len(batch.theta) / hyperparameters.accumulate)
    # Other ranks would wait for one that tries.
    most = _most_rows(attempt, batch, rows) if ranks.world == 1 else (rows + 1) // 2
    raise PipelineError(_message(hyperparameters, ranks, len(batch.theta), rows, most, reason))


def _most_rows(attempt: Callable[[Batch], object], batch: Batch, rows: int) -> int:
    """Return how many rows fit, found by halving; 0 where a single one does not."""
    while rows > 1:
        rows = (rows + 1) // 2
        try:
            attempt(batch.take(torch.arange(rows, device=batch.theta.device)))
        except torch.OutOfMemoryError:
            continue
        return rows
    return 0


def _message(
    hyperparameters: Hyperparameters, ranks: Ranks, size: int, rows: int, most: int, reason: str
) -> str:
    world = ranks.world
    asked = f"train.batch_size={size * world}"
    if world > 1:
        asked += f" on train.workers={world}"
    if hyperparameters.accumulate > 1:
        asked += f" with train.accumulate={hyperparameters.accumulate}"
    head = f"out of memory on {ranks.device}: {asked} computes {rows} rows at a time ({reason})"
    if not most:
        return f"{head}; not even one row fits: take a smaller network"
    parts = math.ceil(size / most)
    found = f"{most} rows fit" if world == 1 else "half as many may fit"
    return (
        f"{head}; {found}: use train.accumulate={parts}, or "
        f"train.batch_size={most * hyperparameters.accumulate * world}, or train.amp=true"
    )
