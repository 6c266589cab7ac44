"""Diffusion posterior sampling: the operator is evaluated at the posterior mean.

    estimate(u) = D(u, sigma)

For a neural operator this mean is often no image, and A misbehaves there.

Chung, Kim, Mccann, Klasky, Ye: Diffusion Posterior Sampling for General Noisy Inverse Problems (2022), arXiv
2209.14687.
"""

from __future__ import annotations

from torch import Tensor

from estimators.inverse.guidance import Guidance
from estimators.inverse.measurements import Measurements


class DPS(Guidance):
    """Guidance by the posterior mean; see `Guidance` for the settings."""

    def estimate(
        self, measured: Measurements, u: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor | None]:
        denoised = measured.prior.denoise(u, sigma)
        return denoised, denoised
