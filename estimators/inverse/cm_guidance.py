"""Guidance by a consistency sample: the operator is evaluated at an approximate posterior draw, which is an image.

    estimate(u) = g(u, sigma) + tau z

g is the consistency function. The noise tau on the input of A, which is not added to linear measurements, keeps
the draws from fitting the faults of a neural A. The step itself takes the denoiser: two passes a step.

Xu, Zhu, Li, He, Wang, Sun, Li, Qin, Wang, Liu, Zhang: Consistency Model is an Effective Posterior Sample
Approximation for Diffusion Inverse Solvers (2024), arXiv 2403.12063, its first proposal.
"""

from __future__ import annotations

from torch import Tensor

from estimators.inverse.guidance import Guidance, StepSize
from estimators.inverse.measurements import Measurements
from estimators.inverse.prior import DiffusionPrior
from estimators.settings import NonNegativeFloat, PositiveInt


class CMGuidance(Guidance):
    """Guidance by consistency samples.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`, with a consistency function.
        passes, step_size: see `Guidance`.
        tau: standard deviation of the noise, in standard deviations of a parameter; linear operators have none.
    """

    needs_consistency = True
    step_passes = 2

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        step_size: StepSize = 1.0,
        tau: NonNegativeFloat = 0.2,
    ) -> None:
        super().__init__(prior, passes=passes, step_size=step_size)
        self.tau = tau

    def estimate(
        self, measured: Measurements, u: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor | None]:
        sample = measured.prior.consistency(u, sigma)
        if self.tau and not measured.operator.linear:
            sample = sample + self.tau * measured.noise()
        return sample, None
