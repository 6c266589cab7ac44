"""Neural spline flow.

A stack of monotone rational-quadratic splines, conditional on a summary of x, maps parameters to a
standard normal z = g(u; x):

    log p(theta | x) = log N(g(u; x); 0, I) + log |det dg/du| + log |det du/dtheta|

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows (2019), arXiv 1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import zuko
from torch import Tensor

from estimators.estimator import Estimator, Problem, within


class NSF(Estimator):
    """Posterior estimator by maximum likelihood of a conditional neural spline flow.

    Arguments:
        problem: names, bounds and shapes.
        transforms: number of spline layers; the order of the parameters alternates.
        bins: pieces of a spline.
        hidden: units in the layers of the network that yields a layer's splines.
        passes: passes through that network for one draw: 2 is coupling, None is autoregressive
            (D passes).
        bounds: treatment of bounded parameters; a bijection where the prior has bounds.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        transforms: int = 5,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        passes: int | None = None,
        bounds: str = "probit",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("transforms", transforms, 1, integer=True)
        within("bins", bins, 2, integer=True)
        for units in hidden:
            within("hidden", units, 1, integer=True)
        if passes is not None:
            within("passes", passes, 2, integer=True)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        if not self.transform.bijective:
            raise ValueError(
                f"bounds = {bounds!r} has no density for a bounded prior; valid: logit, probit"
            )
        # One parameter has no order: an autoregressive layer is then its own coupling.
        self.flow = zuko.flows.NSF(
            features=problem.size,
            context=self.summary.width,
            transforms=transforms,
            bins=bins,
            hidden_features=tuple(hidden),
            passes=passes if problem.size > 1 else None,
        )

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        return -self.density(self.transform(theta), self.summary(x)).mean()

    def density(self, u: Tensor, context: Tensor) -> Tensor:
        z, log_det = self.flow(context).transform.call_and_ladj(u)
        return log_det - 0.5 * z.square().sum(dim=-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        if steps is not None:
            raise ValueError(f"steps = {steps!r}: estimator 'nsf' has no choice of passes")
        return self.flow(context).transform.inv(self.noise(context, generator))
