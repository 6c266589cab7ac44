"""Loss-guided diffusion by Monte Carlo: the operator is evaluated at the posterior mean with noise.

    gradient of log (1/m) sum_j exp(-d(y, A(D(u, sigma) + tau z_j)))

Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat: Loss-Guided Diffusion Models for Plug-and-Play Controllable
Generation (2023), ICML.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.inverse.guidance import Guidance, StepSize
from estimators.inverse.measurements import Measurements, gradient
from estimators.inverse.prior import DiffusionPrior
from estimators.settings import NonNegativeFloat, PositiveInt


class LGDMC(Guidance):
    """Guidance by noisy copies of the posterior mean.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
        passes, step_size: see `Guidance`.
        tau: standard deviation of the noise, in standard deviations of a parameter.
        samples: m; they cost no passes.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        step_size: StepSize = 1.0,
        tau: NonNegativeFloat = 0.2,
        samples: PositiveInt = 1,
    ) -> None:
        super().__init__(prior, passes=passes, step_size=step_size)
        self.tau, self.samples = tau, samples

    def guide(self, measured: Measurements, u: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        noises = [self.tau * measured.noise() for _ in range(self.samples)]
        kept: list[Tensor] = []

        def loss(at: Tensor) -> Tensor:
            kept.append(measured.prior.denoise(at, sigma))
            distances = [measured.distance(kept[0] + noise) for noise in noises]
            return math.log(len(noises)) - torch.logsumexp(-torch.stack(distances), 0)

        _, slope = gradient(loss, u)
        return kept[0].detach(), slope
