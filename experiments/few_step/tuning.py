"""Consistency tuning (ECT): from a trained denoiser to a consistency function, by ever nearer pairs.

    loss = E [ d(f(u_t, t), f(u_r, r)) / (t - r) ],   r / t = 1 - n(t) q^-k,   n(t) = 1 + 8 sigmoid(-t)

The exponent k goes through 1, 2, ... `stages` as training proceeds; r below 0 stands for a pair with u
itself, so that tuning begins as the denoiser's own training does. d is the pseudo-Huber distance.

Geng, Pokle, Luo, Lin, Kolter: Consistency Models Made Easy (2024), arXiv 2406.14548.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.problem import InferenceProblem
from estimators.settings import PositiveInt
from experiments.few_step.flow import FewStep, FewStepSettings


class TuningSettings(FewStepSettings):
    """Settings of `Tuning`.

    Arguments:
        q: base of the mapping.
        stages: its largest exponent.
        huber: c / sqrt(D) of the distance.
    """

    q: Annotated[float, Field(strict=True, ge=1.001)] = 2.0
    stages: PositiveInt = 6
    huber: Annotated[float, Field(strict=True, ge=1e-9)] = 0.01


class Tuning(FewStep):
    """Consistency tuning, from the simulations or under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `TuningSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    settings_type = TuningSettings

    def __init__(self, problem: InferenceProblem, settings: TuningSettings) -> None:
        super().__init__(problem, settings)
        self.q, self.stages = settings.q, settings.stages
        self.c = settings.huber * math.sqrt(problem.size)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.points(theta, x)
        t = self.noise_levels(u)
        k = min(self.stages, 1 + int(progress * self.stages))
        ratio = (1 - (1 + 8 * torch.sigmoid(-t)) * self.q**-k).clamp(min=0)
        r = (ratio * t).clamp(min=0.0)
        noisy = torch.addcmul(u, t, torch.randn_like(u))
        masks = self.network.masks(len(u), u.device)
        with torch.no_grad():
            below = self.below(u, noisy, context, t, r)
            late = r > self.epsilon
            target = self.f(below, context, r.clamp(min=self.epsilon), masks)
            target = torch.where(late, target, below)
        gap = self.f(noisy, context, t, masks) - target
        distance = (gap.square().sum(1, keepdim=True) + self.c**2).sqrt() - self.c
        weight = 1 / (t - r)
        return (weight / weight.mean() * distance).mean()
