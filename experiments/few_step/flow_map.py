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

from experiments.few_step.flow import FewStep


class FlowMap(FewStep):
    """Base of flow maps; a subclass defines `loss`. Arguments: see `FewStep`."""

    times_seen = 2
    restart = False

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: int | Sequence[float] | None,
    ) -> Tensor:
        if self.restart:
            return super().sample_latent(context, generator, sampling_steps)
        return self.transport(self.noise(context, generator), context, sampling_steps)

    def transport(
        self, z: Tensor, context: Tensor, sampling_steps: int | Sequence[float] | None
    ) -> Tensor:
        if self.restart:
            return super().transport(z, context, sampling_steps)
        times = [
            *self.times(self.sampling_steps if sampling_steps is None else sampling_steps),
            self.epsilon,
        ]
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
