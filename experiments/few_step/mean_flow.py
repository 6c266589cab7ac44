"""MeanFlow: regression on the mean velocity between two times.

On the straight path p_s = (1 - s) u + s z with velocity v = (p_s - D) / s, the mean velocity V from s
down to r obeys V = v - (s - r) dV/ds, the derivative along the path. It is learned as it stands there,
with the right hand side of the present network:

    loss = E [ |e|^2 / sg(|e|^2 + c)^power ],   e = V(p_s, r, s) - sg(v - (s - r) dV/ds)

A straight path's time is s = t / (1 + t), its point p_s = u_t / (1 + t).

Geng, Deng, Bai, Kolter, He: Mean Flows for One-step Generative Modeling (2025), arXiv 2505.13447.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.problem import InferenceProblem
from estimators.settings import Flag, NonNegativeFloat
from experiments.few_step.flow import FewStepSettings, along_path
from experiments.few_step.flow_map import FlowMap


class MeanFlowSettings(FewStepSettings):
    """Settings of `MeanFlow`.

    Arguments:
        apart: share of the pairs with r < t.
        power, c: of the adaptive weight; 0 is the squared error.
        restart: whether noise is added again between passes.
    """

    apart: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    power: NonNegativeFloat = 1.0
    c: Annotated[float, Field(strict=True, ge=1e-12)] = 1e-3
    restart: Flag = False


class MeanFlow(FlowMap):
    """MeanFlow, from the simulations or under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `MeanFlowSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    settings_type = MeanFlowSettings

    def __init__(self, problem: InferenceProblem, settings: MeanFlowSettings) -> None:
        super().__init__(problem, settings)
        self.apart, self.power = settings.apart, settings.power
        self.c, self.restart = settings.c, settings.restart

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.points(theta, x)
        t, r = self.pairs(u, self.apart)
        noisy = torch.addcmul(u, t, torch.randn_like(u))
        masks = self.network.masks(len(u), u.device)
        clean = self.clean(u, noisy, context, t)

        def mean_velocity(noisy: Tensor, t: Tensor) -> Tensor:
            """(p_s - D(u_t, r, t)) / s, in terms of u_t and t."""
            answer = self.answer(noisy, context, t, r, masks=masks)
            return (noisy - (1 + t) * answer) / t

        present = mean_velocity(noisy, t)
        with torch.no_grad():
            slope = (noisy - clean) / t
            velocity = (noisy - (1 + t) * clean) / t
            # ds = s (1 - s) dlog t
            change = along_path(mean_velocity, noisy, t, slope) * (1 + t).square() / t
            target = velocity - (t / (1 + t) - r / (1 + r)) * change
        error = (present - target).square().sum(1)
        return (error / (error.detach() + self.c) ** self.power).mean()
