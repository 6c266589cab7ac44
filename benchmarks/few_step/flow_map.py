"""Flow maps: one network for the jump between any two times of the flow.

    D(u_t, r, t) = cos(a) y + sin(a) G(y, x, t, r),   u_r = u_t + (r - t) (u_t - D(u_t, r, t)) / t

For r = t this is the denoiser, for r = epsilon the consistency function. Draws go down the times of the
passes one after the other and add no noise, so that a draw is a function of one noise; with `restart`
every pass jumps to epsilon and noise is added before the next, as a consistency function's draws do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.few_step.flow import FewStep


class FlowMap(FewStep):
    """Base of flow maps; a subclass defines `loss`. Arguments: see `FewStep`."""

    times_seen = 2
    restart = False

    def draw(
        self, context: Tensor, generator: torch.Generator, steps: int | Sequence[float] | None
    ) -> Tensor:
        if self.restart:
            return super().draw(context, generator, steps)
        return self.push(self.noise(context, generator), context, steps)

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        if self.restart:
            return super().push(z, context, steps)
        times = [*self.times(self.steps if steps is None else steps), self.epsilon]
        u = times[0] * z
        for t, r in pairwise(times):
            at = torch.full((len(u), 1), t, device=u.device)
            end = torch.full_like(at, r)
            u = u + (r - t) / t * (u - self.answer(u, context, at, end))
        return u

    def seen(self, t: Tensor) -> tuple[Tensor, ...]:
        return t, torch.full_like(t, self.epsilon)

    def pairs(self, u: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Return times t and r <= t (rows, 1); r = t but for a share of the rows."""
        first, second = self.noise_levels(u), self.noise_levels(u)
        apart = torch.rand_like(first) < share
        t = torch.where(apart, torch.maximum(first, second), first)
        return t, torch.where(apart, torch.minimum(first, second), t)
