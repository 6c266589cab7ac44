"""Shortcut models: a jump must equal two jumps of half its length.

    loss = E |D(u_t, t, t) - D|^2 / ... for a share of the rows (flow matching),
           E |u_r(u_t) - u_r(u_m(u_t))|^2 for the others, m between r and t, without gradient of the second

both in units of G, the network's answer. m is the geometric mean of t and r.

Frans, Hafner, Levine, Abbeel: One Step Diffusion via Shortcut Models (2024), arXiv 2410.12557.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.problem import InferenceProblem
from experiments.few_step.flow import FewStepSettings
from experiments.few_step.flow_map import FlowMap


class ShortcutSettings(FewStepSettings):
    """Settings of `Shortcut`.

    Arguments:
        apart: share of the pairs with r < t.
    """

    apart: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.25


class Shortcut(FlowMap):
    """Shortcut model, from the simulations or under a teacher.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `ShortcutSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    settings_type = ShortcutSettings

    def __init__(self, problem: InferenceProblem, settings: ShortcutSettings) -> None:
        super().__init__(problem, settings)
        self.apart = settings.apart

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.points(theta, x)
        t, r = self.pairs(u, self.apart)
        noisy = torch.addcmul(u, t, torch.randn_like(u))
        masks = self.network.masks(len(u), u.device)
        middle = (t * r).sqrt()
        with torch.no_grad():
            halfway = noisy + (middle - t) / t * (noisy - self.answer(noisy, context, t, middle))
            rest = self.answer(halfway, context, middle, r)
            end = halfway + (r - middle) / middle * (halfway - rest)
            jumped = noisy - t * (end - noisy) / (r - t).clamp(max=-1e-6)
            target = torch.where(r < t, jumped, self.clean(u, noisy, context, t))
        error = self.answer(noisy, context, t, r, masks=masks) - target
        return (error * (1 + t.square()).sqrt() / t).square().mean()
