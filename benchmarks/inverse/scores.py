"""How far draws are from the exact posterior, for each measurement.

    coverage    mass of the exact posterior in the draws' central 90 % interval, mean over parameters: 0.9 is right
    sliced      sliced Wasserstein-2 distance, in root mean square standard deviations of the exact posterior
    mean, sd    root mean square error of posterior mean and standard deviation, in the same unit
    c2st        classifier two-sample test, 0.5 is right

The coverage is that of the true parameters in expectation, with far less noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.inverse.problems import Problem
from evaluation.c2st import c2st_batch

DIRECTIONS = 64
LEVEL = 0.9


def scores(problem: Problem, draws: Tensor, exact: Tensor, pairs: int) -> dict[str, list[float]]:
    """Return the scores of draws (B, n, D); `pairs` measurements are compared by C2ST."""
    moments = [posterior.moments() for posterior in problem.posteriors]
    mean, sd = torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments]).sqrt()
    unit = sd.square().mean(1).sqrt()
    found = {
        "coverage": coverage(draws, exact),
        "sliced": sliced(draws, exact) / unit,
        "mean": (draws.mean(1) - mean).square().mean(1).sqrt() / unit,
        "sd": (draws.std(1) - sd).square().mean(1).sqrt() / unit,
    }
    result = {key: value.tolist() for key, value in found.items()}
    if pairs:
        result["c2st"] = _c2st(problem, draws[:pairs], exact[:pairs])
    return result


def coverage(draws: Tensor, exact: Tensor) -> Tensor:
    """Return the share of exact draws in the central intervals of draws, mean over parameters, (B,)."""
    low = draws.quantile((1 - LEVEL) / 2, dim=1, keepdim=True)
    high = draws.quantile((1 + LEVEL) / 2, dim=1, keepdim=True)
    return ((exact >= low) & (exact <= high)).float().mean((1, 2))


def sliced(draws: Tensor, exact: Tensor) -> Tensor:
    """Return the Wasserstein-2 distance of projections, root mean square over random directions, (B,)."""
    size = draws.shape[2]
    directions = torch.randn(size, DIRECTIONS, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=0)
    quantiles = torch.linspace(0.005, 0.995, 100)
    one, other = ((values @ directions).quantile(quantiles, dim=1) for values in (draws, exact))
    return (one - other).square().mean((0, 2)).sqrt()


def _c2st(problem: Problem, draws: Tensor, exact: Tensor) -> list[float]:
    exact = exact[:, : draws.shape[1]]
    pair = [exact, draws] if problem.axes is None else [exact @ problem.axes, draws @ problem.axes]
    values: np.ndarray = c2st_batch(*(part.double().numpy() for part in pair))
    return [float(value) for value in values]
