"""Pseudo-inverse guidance: for linear operators, with the uncertainty of the clean u in the likelihood.

    p(y | u) ~ N(A D(u, sigma), sigma_y^2 I + r^2 A A^T),   r^2 = sigma^2 s^2 / (sigma^2 + s^2)
    D'(u) = D(u) + sigma^2 (dD/du)^T A^T (sigma_y^2 I + r^2 A A^T)^(-1) (y - A D(u))

D' takes the place of D in every step. r^2 is the variance of u given u_sigma for a normal prior of standard
deviation s, for which the method is exact up to its steps. There is no step size.

Song, Vahdat, Mardani, Kautz: Pseudoinverse-Guided Diffusion Models for Inverse Problems (2023), ICLR.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from estimators.inverse.flow import grid
from estimators.inverse.guidance import ancestral
from estimators.inverse.measurements import Measurements, gradient
from estimators.inverse.noise_model import Gaussian
from estimators.inverse.prior import DiffusionPrior
from estimators.inverse.solver import Solver
from estimators.settings import PositiveFloat, PositiveInt


class PGDM(Solver):
    """Guidance of linear operators by their pseudo-inverse.

    Arguments:
        prior: see `estimators.inverse.prior.DiffusionPrior`.
        passes: network passes of one draw, one for each step.
        spread: s, the standard deviation of an element of u; trained priors are standardised to 1.
    """

    needs_linear = True

    def __init__(
        self,
        prior: DiffusionPrior,
        *,
        passes: PositiveInt = 100,
        spread: PositiveFloat | None = None,
    ) -> None:
        super().__init__(prior)
        self.passes = passes
        self.spread = float(getattr(prior, "deviation", 1.0)) if spread is None else spread

    @torch.no_grad()
    def draw(self, measured: Measurements, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        parts, offset = self.linear_parts(measured.operator)
        model = measured.operator.noise_model
        assert isinstance(model, Gaussian)
        seen = (measured.y.flatten(1) - offset) @ parts.u  # (rows, r)
        projection = parts.v * parts.s  # A^T U
        sigmas = grid(self.passes, *measured.sigmas)
        u = sigmas[0] * measured.noise()
        for k, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
            variance = sigma**2 * self.spread**2 / (sigma**2 + self.spread**2)
            precision = 1 / (model.sigma**2 + variance * parts.s.square())
            kept: list[Tensor] = []

            def half_square(
                at: Tensor,
                kept: list[Tensor] = kept,
                sigma: float = sigma,
                precision: Tensor = precision,
            ) -> Tensor:
                kept.append(measured.prior.denoise(at, sigma))
                residual = seen - kept[0] @ projection
                return 0.5 * (residual.square() * precision.detach()).sum(1)

            _, slope = gradient(half_square, u)
            u = ancestral(measured, u, kept[0].detach() - sigma**2 * slope, sigma, after)
            measured.tick((k + 1) / self.passes)
        return u, {}
