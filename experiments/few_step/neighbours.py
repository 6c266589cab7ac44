"""Consistency distillation on a fixed grid, from any teacher: neighbours on the flow have one answer.

    loss = E [ w_i (sqrt(|f(u_{i+1}, t_{i+1}) - f(u_i, t_i)|^2 + c^2) - c) ],   w_i = 1 / (t_{i+1} - t_i)

where u_i is one step of Heun's method below u_{i+1}. `cmpe_distilled` did so before it learned from the
ends of whole paths.

Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.consistency import log_normal_probabilities
from estimators.problem import InferenceProblem
from experiments.few_step.flow import FewStep, FewStepSettings


class NeighboursSettings(FewStepSettings):
    """Settings of `Neighbours`.

    Arguments:
        intervals: N of the grid.
        huber: c / sqrt(D).
    """

    intervals: Annotated[int, Field(strict=True, ge=2)] = 40
    huber: Annotated[float, Field(strict=True, ge=1e-9)] = 0.01


class Neighbours(FewStep):
    """Consistency distillation on a Karras grid; without a teacher, consistency training.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `NeighboursSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    table: Tensor
    edges: Tensor

    settings_type = NeighboursSettings

    def __init__(self, problem: InferenceProblem, settings: NeighboursSettings) -> None:
        super().__init__(problem, settings)
        self.c = settings.huber * math.sqrt(problem.size)
        t = self.grid(settings.intervals)
        shares = log_normal_probabilities(t, settings.p_mean, settings.p_std)
        weights = 1 / t.diff()
        table = torch.stack([t[:-1], t[1:], weights / (weights * shares).sum()], 1)
        self.register_buffer("table", table.float(), persistent=False)
        self.register_buffer("edges", shares.cumsum(0)[:-1].float(), persistent=False)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.points(theta, x)
        interval = torch.searchsorted(self.edges, torch.rand(len(u), device=u.device))
        r, t, weight = self.table[interval].split(1, dim=1)
        noisy = torch.addcmul(u, t, torch.randn_like(u))
        masks = self.network.masks(len(u), u.device)
        with torch.no_grad():
            target = self.f(self.below(u, noisy, context, t, r), context, r, masks)
        gap = self.f(noisy, context, t, masks) - target
        distance = (gap.square().sum(1) + self.c**2).sqrt() - self.c
        return (weight[:, 0] * distance).mean()
