"""The probability flow of a prior, du/dsigma = (u - D(u, sigma)) / sigma, and grids of noise."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from estimators.consistency import karras_times

RHO = 7.0  # of the grids


def grid(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Return N = `steps` numbers from sigma_max to sigma_min, see `karras_times`, and 0 at last."""
    if steps == 1:
        return [sigma_max, 0.0]
    return [*karras_times(steps - 1, sigma_min, sigma_max, RHO).flip(0).tolist(), 0.0]


def flow_end(
    denoise: Callable[[Tensor, float], Tensor], u: Tensor, sigma: float, least: float, steps: int
) -> Tensor:
    """Return where the flow from u leads, by DPM-Solver++(2M) on a geometric grid.

        u_{k+1} = q u_k + (1 - q) D',   D' = D_k + (D_k - D_{k-1}) / 2,   q = sigma_{k+1} / sigma_k

    The last pass denoises what remains at `least`.

    Lu, Zhou, Bao, Chen, Li, Zhu: DPM-Solver++ (2022), arXiv 2211.01095.

    Arguments:
        denoise: D.
        u: shape (rows, D). sigma: its noise.
        least: noise of the last pass.
        steps: number of passes.
    """
    if steps == 1 or sigma <= least:
        return denoise(u, sigma)
    share = math.exp(math.log(least / sigma) / (steps - 1))
    previous = None
    for k in range(steps - 1):
        denoised = denoise(u, sigma * share**k)
        ahead = denoised if previous is None else denoised + 0.5 * (denoised - previous)
        u, previous = share * u + (1 - share) * ahead, denoised
    return denoise(u, least)
