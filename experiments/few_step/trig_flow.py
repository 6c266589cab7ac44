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
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.problem import InferenceProblem
from estimators.settings import Float, NonNegativeFloat
from experiments.few_step.flow import FewStep, FewStepSettings, along_path


class TrigFlowSettings(FewStepSettings):
    """Settings of `TrigFlow`.

    Arguments:
        warmup: share of training in which r grows.
        c: what tames the tangent g.
        weight: exponent w of the weight t^-w.
    """

    warmup: Annotated[float, Field(strict=True, ge=1e-6, le=1)] = 0.3
    c: NonNegativeFloat = 0.1
    weight: Float = 0.0


class TrigFlow(FewStep):
    """Continuous-time consistency training, or distillation under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `TrigFlowSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    settings_type = TrigFlowSettings

    def __init__(self, problem: InferenceProblem, settings: TrigFlowSettings) -> None:
        super().__init__(problem, settings)
        self.warmup, self.c, self.weight = settings.warmup, settings.c, settings.weight

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
