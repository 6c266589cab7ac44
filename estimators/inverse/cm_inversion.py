"""Inversion of the consistency function: its noise is optimised until the draw fits the measurement.

    z_1 = argmin L(y, A(g(sigma_max z, sigma_max))),   started at z ~ N(0, I)
    z_j = argmin L(y, A(g(u_{j-1} + sqrt(t_j^2 - sigma_min^2) z, t_j))),   u_j the output of stage j

by Adam, stage after stage at falling noise t_j. L is the squared error of Gaussian noise, else the distance. It is
an optimisation from random starts: its draws fit y, and are no posterior.

Xu et al.: Consistency Model is an Effective Posterior Sample Approximation for Diffusion Inverse Solvers (2024),
arXiv 2403.12063, its second proposal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.inverse.flow import grid
from estimators.inverse.measurements import Measurements, gradient
from estimators.inverse.noise_model import Gaussian
from estimators.inverse.prior import DiffusionPrior
from estimators.inverse.solver import Solver
from estimators.settings import NonNegativeFloat, PositiveInt

TIMES = 40  # of the grid that holds the stages


class CMInversion(Solver):
    """Inversion of the consistency function, stage by stage.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`, with a consistency function.
        passes: network passes of one draw, shared equally by the stages.
        step_size: learning rate of the first stage, of noise of unit variance.
        decay: factor on the learning rate from each stage to the next.
        tau: standard deviation of noise on the input of A, of operators that are not linear.
        stages: numbers of the times of the stages, in a grid of 40 from sigma_max to sigma_min.
    """

    needs_consistency = True

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        step_size: Annotated[float, Field(ge=0)] = 0.1,
        decay: Annotated[float, Field(gt=0)] = 0.3,
        tau: NonNegativeFloat = 0.0,
        stages: tuple[int, ...] = (0, 17),
    ) -> None:
        super().__init__(prior)
        if (
            not stages
            or sorted(set(stages)) != list(stages)
            or not 0 <= stages[0] <= stages[-1] < TIMES
        ):
            raise ValueError(
                f"stages = {list(stages)}; valid are increasing numbers from 0 to {TIMES - 1}"
            )
        if passes <= len(stages):
            raise ValueError(f"passes = {passes} for {len(stages)} stages: each takes 2 or more")
        self.passes, self.step_size, self.decay = passes, step_size, decay
        self.tau, self.stages = tau, stages

    @torch.no_grad()
    def draw(self, measured: Measurements, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        least, _ = measured.sigmas
        times = grid(TIMES, *measured.sigmas)
        u = torch.zeros(len(measured.y), measured.size, device=measured.y.device)
        each = self.passes // len(self.stages)
        for number, stage in enumerate(self.stages):
            t = times[stage]
            added = math.sqrt(max(t**2 - least**2, 0.0)) if number else t

            def clean(z: Tensor, u: Tensor = u, t: float = t, added: float = added) -> Tensor:
                return measured.prior.consistency(u + added * z, t)

            z = self._fitted(measured, clean, each - 1, self.step_size * self.decay**number)
            u = clean(z)
            measured.tick((number + 1) / len(self.stages))
        return u, {}

    def _fitted(
        self, measured: Measurements, clean: Callable[[Tensor], Tensor], steps: int, rate: float
    ) -> Tensor:
        """Return the noise z after `steps` of Adam."""
        z = measured.noise()
        mean, square = torch.zeros_like(z), torch.zeros_like(z)
        noisy = self.tau > 0 and not measured.operator.linear

        def loss(at: Tensor) -> Tensor:
            sample = clean(at)
            distance = measured.distance(sample + self.tau * measured.noise() if noisy else sample)
            return (
                distance.square()
                if isinstance(measured.operator.noise_model, Gaussian)
                else distance
            )

        for k in range(1, steps + 1):
            _, slope = gradient(loss, z)
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope.square()
            corrected = (square / (1 - 0.999**k)).sqrt() + 1e-8
            z = z - rate * mean / (1 - 0.9**k) / corrected
        return z
