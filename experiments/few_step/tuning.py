"""Consistency tuning (ECT): from a trained denoiser to a consistency function, by ever nearer pairs.

    loss = E [ d(f(u_t, t), f(u_r, r)) / (t - r) ],   r / t = 1 - n(t) q^-k,   n(t) = 1 + 8 sigmoid(-t)

The exponent k goes through 1, 2, ... `stages` as training proceeds; r below 0 stands for a pair with u
itself, so that tuning begins as the denoiser's own training does. d is the pseudo-Huber distance.

Geng, Pokle, Luo, Lin, Kolter: Consistency Models Made Easy (2024), arXiv 2406.14548.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.checks import within
from estimators.problem import InferenceProblem
from experiments.few_step.flow import FewStep


class Tuning(FewStep):
    """Consistency tuning, from the simulations or under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        q: base of the mapping.
        stages: its largest exponent.
        huber: c / sqrt(D) of the distance.
        shared: of the base, see `FewStep`.
    """

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        q: float = 2.0,
        stages: int = 6,
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
        within("q", q, 1.001)
        within("stages", stages, 1, integer=True)
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
        self.q, self.stages, self.c = q, stages, huber * math.sqrt(problem.size)

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
