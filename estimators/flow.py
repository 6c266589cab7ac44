"""What the normalizing flows share: a bijection z = g(u; x) between a parameter and a standard normal.

log p(theta | x) = log N(g(u; x); 0, I) + log |det dg/du| + log |det du/dtheta|
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zuko.lazy import LazyTransform

from estimators.estimator import Estimator
from estimators.jacobian import log_normal
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import EstimatorSettings


class FlowSettings(EstimatorSettings):
    """Settings of a flow; `bounds` is a bijection where the prior has bounds."""

    bounds: str = "probit"


class FlowEstimator(Estimator):
    """Posterior estimator by maximum likelihood of a conditional bijection.

    A subclass sets `flow`, a module that maps a context (rows, C) to the transform g of (rows, D).

    Arguments:
        problem: names, bounds and shapes.
        settings: bounds and summary network.

    Raises:
        ValueError: bounds that leave no density.
    """

    takes_simplexes = True

    flow: LazyTransform

    def __init__(self, problem: InferenceProblem, settings: FlowSettings) -> None:
        super().__init__(problem, settings)
        if not self.transform.bijective:
            raise ValueError(
                f"bounds = {settings.bounds!r} has no density for a bounded prior; "
                "valid: logit, probit"
            )

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u = self.transform(theta)
        return -self.log_prob_latent(u, self.context(x, len(u))).mean()

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        # A spline's knots lie closer than bfloat16 resolves.
        with torch.autocast(u.device.type, enabled=False):
            z, log_det = self.flow(context.float()).call_and_ladj(u.float())
        return log_det + log_normal(z)

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        return self.transport(self.noise(context, generator), context, sampling_steps)

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            u: Tensor = self.flow(context.float()).inv(z)
        return u

    def sample_latent_with_log_prob(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> tuple[Tensor, Tensor]:
        u = self.sample_latent(context, generator, sampling_steps)
        return u, self.log_prob_latent(u, context)
