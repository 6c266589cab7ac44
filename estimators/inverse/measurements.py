"""Measurements as a method sees them: how far points of a prior are from them, and the passes that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.inverse.operators import Operator
from estimators.inverse.prior import ConsistentPrior, DiffusionPrior, decode

Tick = Callable[[float], None]


class Counted:
    """A prior whose passes are counted.

    Arguments:
        prior: the prior.
    """

    def __init__(self, prior: DiffusionPrior) -> None:
        self.prior, self.passes, self.gradients = prior, 0, 0

    def denoise(self, u: Tensor, sigma: float) -> Tensor:
        """Return D(u, sigma)."""
        self._count(u)
        return self.prior.denoise(u, sigma)

    def consistency(self, u: Tensor, sigma: float) -> Tensor:
        """Return g(u, sigma); it counts as one pass, however it is computed."""
        assert isinstance(self.prior, ConsistentPrior)
        self._count(u)
        return self.prior.consistency(u, sigma)

    def _count(self, u: Tensor) -> None:
        self.passes += len(u)
        if torch.is_grad_enabled() and u.requires_grad:
            self.gradients += len(u)


@dataclass
class Measurements:
    """Measurements of as many rows, and how far points u of a prior are from them.

    Attributes:
        prior: with counted passes.
        operator: A and its noise.
        y: shape (rows, ...).
        generator: source of all randomness, on the CPU.
        tick: is told now and then which share of these rows is done.
    """

    prior: Counted
    operator: Operator
    y: Tensor
    generator: torch.Generator
    tick: Tick

    @property
    def size(self) -> int:
        """The number D of parameters."""
        return self.prior.prior.size

    @property
    def sigmas(self) -> tuple[float, float]:
        """The least and the largest noise."""
        return self.prior.prior.sigma_min, self.prior.prior.sigma_max

    def noise(self, rows: int | None = None) -> Tensor:
        """Return standard normal numbers (rows, D), the same on every device."""
        shape = (len(self.y) if rows is None else rows, self.size)
        return torch.randn(shape, generator=self.generator).to(self.y.device)

    def f(self, u: Tensor) -> Tensor:
        """Return A(theta) at u (rows, D).

        Raises:
            FloatingPointError: it is not finite.
        """
        values = self.operator.A(decode(self.prior.prior, u))
        if not values.isfinite().all():
            bad = int((~values.flatten(1).isfinite().all(1)).sum())
            raise FloatingPointError(
                f"operator {self.operator.name!r} gives NaN or infinity for {bad} of {len(values)} "
                f"inputs between {float(u.detach().min()):.3g} and {float(u.detach().max()):.3g} (standardised)"
            )
        return values

    def distance(self, u: Tensor) -> Tensor:
        """Return the distance of A(theta) from y, shape (rows,)."""
        return self.operator.noise_model.distance(self.y, self.f(u))

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Return log p(y | theta) at u, shape (rows,)."""
        return self.operator.noise_model.log_prob(self.y, self.f(u))


def gradient(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return function(u), shape (rows,), and its gradient by u (rows, D); rows are independent."""
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        values = function(at)
        (slope,) = torch.autograd.grad(values.sum(), at)
    return values.detach(), slope


def row_norm(values: Tensor) -> Tensor:
    """Return |v| of rows, shape (rows, 1)."""
    return values.square().sum(1, keepdim=True).sqrt()
