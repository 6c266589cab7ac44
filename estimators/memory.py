"""What to say when the memory of a device does not hold the draws of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def draws_that_fit(draw: Callable[[Tensor], object], context: Tensor) -> Iterator[None]:
    """Give a pass that runs out of memory an error that names its rows, and how many would fit.

    Arguments:
        draw: makes a draw for each row of a context.
        context: summary of x, a row for each draw, shape (rows, C).

    Raises:
        MemoryError: the memory of the device is exhausted.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        # Behind this block: as long as the error is handled it holds on to the tensors of the pass.
        reason = str(error).split(". ")[0]
    head = f"out of memory on {context.device}: {len(context)} draws are made at a time ({reason})"
    most = _most_rows(draw, context)
    fit = f"{most} fit: make at most {most} in one call" if most else "not even one fits"
    raise MemoryError(f"{head}; {fit}, or draw on the CPU (evaluate.device=cpu)")


def _most_rows(draw: Callable[[Tensor], object], context: Tensor) -> int:
    """Return how many draws fit, found by halving; 0 where a single one does not."""
    rows = len(context)
    while rows > 1:
        rows = (rows + 1) // 2
        if context.is_cuda:
            torch.cuda.empty_cache()
        try:
            draw(context[:rows])
        except torch.OutOfMemoryError:
            continue
        return rows
    return 0
