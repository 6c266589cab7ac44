"""What the normalizing flows share: a bijection z = g(u; x) between a parameter and a standard normal.

log p(theta | x) = log N(g(u; x); 0, I) + log |det dg/du| + log |det du/dtheta|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from zuko.lazy import LazyTransform

from estimators.estimator import Estimator, Problem
from estimators.jacobian import log_normal


class FlowEstimator(Estimator):
    """Posterior estimator by maximum likelihood of a conditional bijection.

    A subclass sets `flow`, a module that maps a context (rows, C) to the transform g of (rows, D).

    Arguments:
        problem: names, bounds and shapes.
        bounds: treatment of bounded parameters; a bijection where the prior has bounds.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        ValueError: bounds that leave no density.
    """

    flow: LazyTransform

    def __init__(
        self,
        problem: Problem,
        *,
        bounds: str,
        summary: str,
        summary_arguments: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        if not self.transform.bijective:
            raise ValueError(
                f"bounds = {bounds!r} has no density for a bounded prior; valid: logit, probit"
            )

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return -self.density(self.transform(theta), self.summary(x)).mean()

    def density(self, u: Tensor, context: Tensor) -> Tensor:
        # A spline's knots lie closer than bfloat16 resolves.
        with torch.autocast(u.device.type, enabled=False):
            z, log_det = self.flow(context.float()).call_and_ladj(u.float())
        return log_det + log_normal(z)

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        return self.push(self.noise(context, generator), context, steps)

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            u: Tensor = self.flow(context.float()).inv(z)
        return u

    def draw_with_density(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> tuple[Tensor, Tensor]:
        u = self.draw(context, generator, steps)
        return u, self.density(u, context)
