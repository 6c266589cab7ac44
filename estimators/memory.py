"""What to say when the memory of a device does not hold the draws of one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from estimators.estimator import Estimator
    from estimators.posterior import SamplingSteps


@contextmanager
def draws_that_fit(
    module: Estimator, context: Tensor, sampling_steps: SamplingSteps
) -> Iterator[None]:
    """Give a pass that runs out of memory an error that names its rows, and how many would fit.

    Arguments:
        module: the estimator.
        context: summary of x, a row for each draw, shape (rows, C).
        sampling_steps: of the draws.

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
    most = _most_rows(module, context, sampling_steps)
    fit = f"{most} fit: make at most {most} in one call" if most else "not even one fits"
    raise MemoryError(f"{head}; {fit}, or draw on the CPU (evaluate.device=cpu)")


def _most_rows(module: Estimator, context: Tensor, sampling_steps: SamplingSteps) -> int:
    """Return how many draws fit, found by halving; 0 where a single one does not."""
    rows = len(context)
    while rows > 1:
        rows = (rows + 1) // 2
        if context.is_cuda:
            torch.cuda.empty_cache()
        try:
            module.sample_latent(context[:rows], torch.Generator(), sampling_steps)
        except torch.OutOfMemoryError:
            continue
        return rows
    return 0
