"""Guided sampling: reverse diffusion whose every step is moved towards the measurement.

    u_0 = sigma_max z;   for sigma_i > sigma_{i+1} of a Karras grid
    u'    = u_i + (sigma_down - sigma_i) (u_i - D(u_i, sigma_i)) / sigma_i + sigma_up z
    u_{i+1} = u' - step_size sigma_i grad_u d(y, A(estimate(u_i)))
    sigma_up^2 = sigma_{i+1}^2 (sigma_i^2 - sigma_{i+1}^2) / sigma_i^2,   sigma_down^2 = sigma_{i+1}^2 - sigma_up^2

Methods differ in the estimate of the clean u at which A is evaluated. The move of one step is limited to
sigma_i sqrt(D): at large noise the gradient says little, and an unlimited step would leave the prior.

Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv
2206.00364.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.inverse.flow import grid
from estimators.inverse.measurements import Measurements, gradient, row_norm
from estimators.inverse.prior import DiffusionPrior
from estimators.inverse.solver import Solver
from estimators.settings import PositiveInt

StepSize = Annotated[float, Field(ge=0)]


class Guidance(Solver):
    """Base of guided sampling.

    A subclass defines `estimate`, or `move` where it guides in another way.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
        passes: network passes of one draw; the number of steps follows.
        step_size: factor on the gradient of the distance.
    """

    step_passes = 1  # network passes of one step

    def __init__(
        self, prior: DiffusionPrior, *, passes: PositiveInt = 100, step_size: StepSize = 1.0
    ) -> None:
        super().__init__(prior)
        if passes < self.step_passes:
            raise ValueError(f"passes = {passes}: one step takes {self.step_passes}")
        self.passes, self.step_size = passes, step_size

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.passes // self.step_passes

    def estimate(
        self, measured: Measurements, u: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor | None]:
        """Return the clean u at which A is evaluated, (rows, D), and D(u, sigma) if it was computed for it."""
        raise NotImplementedError

    @torch.no_grad()
    def draw(self, measured: Measurements, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        sigmas = grid(self.steps, *measured.sigmas)
        u = sigmas[0] * measured.noise()
        for k, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
            u = self.step(measured, u, sigma, after)
            measured.tick((k + 1) / self.steps)
        return u, {}

    def step(self, measured: Measurements, u: Tensor, sigma: float, after: float) -> Tensor:
        """Return u at the noise `after`."""
        denoised, slope = self.guide(measured, u, sigma)
        u = ancestral(measured, u, denoised, sigma, after)
        move = self.step_size * sigma * slope
        most = sigma * math.sqrt(measured.size)
        return u - move * (most / row_norm(move).clamp_min(most))

    def guide(self, measured: Measurements, u: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return D(u, sigma) and the gradient of the distance by u."""
        kept: list[Tensor | None] = [None]

        def distance(at: Tensor) -> Tensor:
            clean, kept[0] = self.estimate(measured, at, sigma)
            return measured.distance(clean)

        _, slope = gradient(distance, u)
        denoised = kept[0]
        if denoised is None:
            denoised = measured.prior.denoise(u, sigma)
        return denoised.detach(), slope


def ancestral(
    measured: Measurements, u: Tensor, denoised: Tensor, sigma: float, after: float
) -> Tensor:
    """Return u after an Euler-ancestral step to a lower noise."""
    up = math.sqrt(after**2 * (sigma**2 - after**2)) / sigma
    down = math.sqrt(max(after**2 - up**2, 0.0))
    u = u + (down - sigma) / sigma * (u - denoised)
    return u + up * measured.noise() if after else u
