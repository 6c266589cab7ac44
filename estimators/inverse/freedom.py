"""Training-free energy guidance with time travel.

Each step of DPS is taken `travels` times; in between noise is added again:

    u_i = u_{i+1} + sqrt(sigma_i^2 - sigma_{i+1}^2) z

Yu, Wang, Zhao, Ghanem, Zhang: FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model (2023), arXiv
2303.09833.
"""

from __future__ import annotations

import math

from torch import Tensor

from estimators.inverse.dps import DPS
from estimators.inverse.guidance import StepSize
from estimators.inverse.measurements import Measurements
from estimators.inverse.prior import DiffusionPrior
from estimators.settings import PositiveInt


class FreeDoM(DPS):
    """Guidance by the posterior mean with time travel.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
        passes, step_size: see `Guidance`.
        travels: times that each step is taken.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        step_size: StepSize = 1.0,
        travels: PositiveInt = 2,
    ) -> None:
        self.step_passes = travels
        super().__init__(prior, passes=passes, step_size=step_size)

    def step(self, measured: Measurements, u: Tensor, sigma: float, after: float) -> Tensor:
        for travel in range(self.step_passes):
            if travel:
                u = u + math.sqrt(sigma**2 - after**2) * measured.noise()
            u = super().step(measured, u, sigma, after)
        return u
