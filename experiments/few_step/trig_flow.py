"""Continuous-time consistency (sCM, TrigFlow): the neighbouring point is infinitely near.

In the coordinates y = cos(a) u + sin(a) z, a = arctan t, of unit variance everywhere, the function
f = cos(a) y + sin(a) G must not change along the flow dy/da = (cos(a) y - D) / sin(a). With
the derivative of G along it (d log t = da / (sin(a) cos(a))),

    g = cos^2(a) (G + dy/da) + r (dG/dlog t - cos(a) sin(a) y),   loss = |G - sg(G - g / (|g| + c))|^2

where sg(...) has no gradient, and r grows from 0 to 1 over the first share of training. It is the
method's cos(a) df/da; TrigFlow's F is -G here.

Lu, Song: Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (2024), arXiv
2410.11081.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.checks import within
from estimators.problem import InferenceProblem
from experiments.few_step.flow import FewStep, along_path


class TrigFlow(FewStep):
    """Continuous-time consistency training, or distillation under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        warmup: share of training in which r grows.
        c: what tames the tangent g.
        weight: exponent w of the weight t^-w.
        shared: of the base, see `FewStep`.
    """

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        warmup: float = 0.3,
        c: float = 0.1,
        weight: float = 0.0,
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
        within("warmup", warmup, 1e-6, 1)
        within("c", c, 0)
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
        self.warmup, self.c, self.weight = warmup, c, weight

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.points(theta, x)
        t = self.noise_levels(u)
        noisy = torch.addcmul(u, t, torch.randn_like(u))
        cosine = (1 + t.square()).rsqrt()
        sine, y = t * cosine, cosine * noisy
        masks = self.network.masks(len(u), u.device)
        clean = self.clean(u, noisy, context, t)

        def output(noisy: Tensor, t: Tensor) -> Tensor:
            return self.output(noisy * (1 + t.square()).rsqrt(), context, t, masks=masks)

        answer = output(noisy, t)
        with torch.no_grad():
            change = along_path(output, noisy, t, (noisy - clean) / t)
            slope = (cosine * y - clean) / sine
            r = min(1.0, progress / self.warmup)
            g = cosine.square() * (answer + slope) + r * (change - cosine * sine * y)
            g = g / (g.norm(dim=1, keepdim=True) + self.c)
            target = answer - g
            weight = t.pow(-self.weight)
            weight = weight / weight.mean()
        return (weight * (answer - target).square()).sum(1).mean()
