"""Manifold-preserving guidance without the autoencoder: the denoised u is moved, not the noisy one.

    D' = D(u, sigma) - c(sigma) grad_D d(y, A(D)),   c = step_size sigma / sqrt(1 + sigma^2)

and the step is that of an unguided sampler with D' in place of D. The gradient does not pass through the
network. c is the paper's choice for the noise schedule of variance 1, written for ours.

He, Murata, Lai, Takida, Uesaka, Kim, Liao, Mitsufuji, Kolter, Salakhutdinov, Ermon: Manifold Preserving Guided
Diffusion (2023), arXiv 2311.16424.
"""

from __future__ import annotations

import math

from torch import Tensor

from estimators.inverse.guidance import Guidance, ancestral
from estimators.inverse.measurements import Measurements, gradient


class MPGD(Guidance):
    """Guidance of the denoised u; see `Guidance` for the settings."""

    def step(self, measured: Measurements, u: Tensor, sigma: float, after: float) -> Tensor:
        denoised = measured.prior.denoise(u, sigma)
        _, slope = gradient(measured.distance, denoised)
        size = self.step_size * sigma / math.sqrt(1 + sigma**2)
        return ancestral(measured, u, denoised - size * slope, sigma, after)
