"""What to do when a batch does not fit into the memory of a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.train.dataset import Batch
    from pipeline.train.loop import Loop


@contextmanager
def batch_that_fits(loop: Loop, batch: Batch) -> Iterator[None]:
    """Give a step that runs out of memory an error that names its rows, and how many would fit.

    Raises:
        PipelineError: the memory of the device is exhausted.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        # Behind this block: as long as the error is handled it holds on to the tensors of the step.
        reason = str(error).split(". ")[0]
    rows = math.ceil(len(batch.theta) / loop.hyperparameters.accumulate)
    # Other ranks would wait for one that tries.
    most = _most_rows(loop, batch, rows) if loop.ranks.world == 1 else (rows + 1) // 2
    raise PipelineError(_message(loop, len(batch.theta), rows, most, reason))


def _most_rows(loop: Loop, batch: Batch, rows: int) -> int:
    """Return how many rows fit, found by halving; 0 where a single one does not."""
    while rows > 1:
        rows = (rows + 1) // 2
        _forget(loop)
        try:
            loop.differentiate(batch.take(torch.arange(rows, device=batch.theta.device)), 1)
        except torch.OutOfMemoryError:
            continue
        return rows
    return 0


def _forget(loop: Loop) -> None:
    for parameter in loop.weights.parameters:
        parameter.grad = None
    if loop.ranks.device.type == "cuda":
        torch.cuda.empty_cache()


def _message(loop: Loop, size: int, rows: int, most: int, reason: str) -> str:
    world = loop.ranks.world
    asked = f"train.batch_size={size * world}"
    if world > 1:
        asked += f" on train.workers={world}"
    if loop.hyperparameters.accumulate > 1:
        asked += f" with train.accumulate={loop.hyperparameters.accumulate}"
    head = (
        f"out of memory on {loop.ranks.device}: {asked} computes {rows} rows at a time ({reason})"
    )
    if not most:
        return f"{head}; not even one row fits: take a smaller network"
    parts = math.ceil(size / most)
    found = f"{most} rows fit" if world == 1 else "half as many may fit"
    return (
        f"{head}; {found}: use train.accumulate={parts}, or "
        f"train.batch_size={most * loop.hyperparameters.accumulate * world}, or train.amp=true"
    )
