"""What a method needs of a prior, and how a trained estimator without an observation is one.

A prior lives in coordinates u of about unit variance, in which noise of one standard deviation sigma is added:

    theta = shift + scale u,   u_sigma = u + sigma z,   z ~ N(0, I)
    D(u_sigma, sigma) = E[u | u_sigma]                            the denoiser
    g(u_sigma, sigma) = end of the probability flow from u_sigma  the consistency function

Xu, Zhu, Li, He, Wang, Sun, Li, Qin, Wang, Liu, Zhang: Consistency Model is an Effective Posterior Sample
Approximation for Diffusion Inverse Solvers (2024), arXiv 2403.12063.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from estimators.cmpe_distilled import CMPEDistilled
from estimators.estimator import Estimator
from estimators.npse import NPSE
from estimators.posterior import Posterior
from estimators.transform import Reflect


@runtime_checkable
class DiffusionPrior(Protocol):
    """A prior of D parameters.

    Attributes:
        size: D.
        sigma_min, sigma_max: the least and the largest noise.
        shift, scale: of theta = shift + scale u, shape (D,) or ().
        low, high: bounds of theta, shape (D,) or (); -inf and inf where there is none.
        row_memory: about how many numbers one row takes in a pass.
    """

    size: int
    sigma_min: float
    sigma_max: float
    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    row_memory: int

    def denoise(self, u: Tensor, sigma: float) -> Tensor:
        """Return D(u, sigma), shape (rows, D)."""
        ...


@runtime_checkable
class ConsistentPrior(DiffusionPrior, Protocol):
    """A prior that has a consistency function."""

    def consistency(self, u: Tensor, sigma: float) -> Tensor:
        """Return g(u, sigma), shape (rows, D)."""
        ...


class EstimatorPrior:
    """A trained `npse` as a denoiser; a trained `cmpe_distilled` also as a consistency function.

    theta is linear in u, also where parameters have bounds: a draw outside of them is set to the bound.

    Arguments:
        posterior: of an estimator that was trained without outputs.

    Raises:
        ValueError: an estimator of another kind, one with an observation, or parameters that are not linear in u.
    """

    def __init__(self, posterior: Posterior | Estimator) -> None:
        module = posterior.module if isinstance(posterior, Posterior) else posterior
        if not isinstance(module, NPSE | CMPEDistilled):
            raise ValueError(
                f"estimator {module.name!r} has no denoiser, which a prior is made of; valid: npse, cmpe_distilled"
            )
        if module.problem.x:
            raise ValueError(
                f"the estimator was trained with the outputs {sorted(module.problem.x)}: a prior is trained "
                "without, by a simulator that has none (see docs/inverse.md)"
            )
        transform = module.transform
        if transform.any_log or not isinstance(transform, Reflect):
            scale = "a log scale" if transform.any_log else f"bounds = {module.bounds!r}"
            raise ValueError(
                f"the prior's parameters have {scale}: inverse problems need parameters that are linear in those "
                "of the network; valid are a linear scale and bounds reflect or clip"
            )
        self.module = module.eval().requires_grad_(False)
        self.denoiser = module.teacher if isinstance(module, CMPEDistilled) else module
        self.size, self.row_memory = module.problem.latent_size, module.row_memory
        self.sigma_min, self.sigma_max = float(module.epsilon), float(module.T)
        self.shift, self.scale = transform.standard.mean, transform.standard.scale
        self.low, self.high = transform.low, transform.high
        if isinstance(module, CMPEDistilled):
            self.student = module
            self.consistency = self._consistency

    def denoise(self, u: Tensor, sigma: float) -> Tensor:
        """Return D(u, sigma), shape (rows, D)."""
        denoised: Tensor = self.denoiser.denoise(u, u.new_empty(len(u), 0), self._time(u, sigma))
        return denoised

    def _consistency(self, u: Tensor, sigma: float) -> Tensor:
        return self.student.consistency_function(u, u.new_empty(len(u), 0), self._time(u, sigma))

    def _time(self, u: Tensor, sigma: float) -> Tensor:
        return torch.full((1, 1), min(max(sigma, self.sigma_min), self.sigma_max), device=u.device)


def decode(prior: DiffusionPrior, u: Tensor) -> Tensor:
    """Return theta = shift + scale u."""
    return prior.shift + prior.scale * u


def bounded(prior: DiffusionPrior, theta: Tensor) -> Tensor:
    """Return theta, what lies outside of the prior's bounds set to them."""
    return torch.minimum(torch.maximum(theta, prior.low), prior.high)
