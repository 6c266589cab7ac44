"""Consistency distillation on a fixed grid, from any teacher: neighbours on the flow have one answer.

    loss = E [ w_i (sqrt(|f(u_{i+1}, t_{i+1}) - f(u_i, t_i)|^2 + c^2) - c) ],   w_i = 1 / (t_{i+1} - t_i)

where u_i is one step of Heun's method below u_{i+1}. `cmpe_distilled` did so before it learned from the
ends of whole paths.

Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.checks import within
from estimators.consistency import log_normal_probabilities
from estimators.problem import InferenceProblem
from experiments.few_step.flow import FewStep


class Neighbours(FewStep):
    """Consistency distillation on a Karras grid; without a teacher, consistency training.

    Arguments:
        problem: names, bounds and shapes.
        intervals: N of the grid.
        huber: c / sqrt(D).
        others: of the base, see `FewStep`.
    """

    table: Tensor
    edges: Tensor

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        intervals: int = 40,
        huber: float = 0.01,
        teacher: str | None = None,
        start: str | None = None,
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
        input_scale: float = 6.0,
        p_mean: float = -1.0,
        p_std: float = 2.0,
        jitter: float = 0.05,
        sampling_steps: int = 10,
        bounds: str = "reflect",
    ) -> None:
        within("intervals", intervals, 2, integer=True)
        within("huber", huber, 1e-9)
        super().__init__(
            problem,
            teacher=teacher,
            start=start,
            width=width,
            depth=depth,
            dropout=dropout,
            input_scale=input_scale,
            p_mean=p_mean,
            p_std=p_std,
            jitter=jitter,
            sampling_steps=sampling_steps,
            bounds=bounds,
        )
        self.c = huber * math.sqrt(problem.size)
        t = self.grid(intervals)
        shares = log_normal_probabilities(t, p_mean, p_std)
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
