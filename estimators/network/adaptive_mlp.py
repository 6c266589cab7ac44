"""A residual perceptron that time and context modulate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network.base import FreeForm
from estimators.settings import Dropout, NonNegativeInt, PositiveInt


class AdaptiveMLP(FreeForm):
    """Residual layers whose scale, shift and gate follow from time and context.

        c = E(context, time),   (s_k, b_k, g_k) = A_k silu(c)
        h_0 = W u,   h_k = h_{k-1} + g_k V_k m_k silu(W_k ((1 + s_k) norm(h_{k-1}) + b_k))
        out = W' ((1 + s) norm(h_K) + b)

    All gates and the output start at zero.

    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), arXiv 2212.09748; Perez et al.:
    FiLM: Visual Reasoning with a General Conditioning Layer (2018), arXiv 1709.07871.

    Arguments:
        size, context, time: D, C and F.
        width: units in a layer.
        depth: number K of residual layers.
        dropout: probability with which a mask m_k drops a unit.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        width: PositiveInt = 128,
        depth: NonNegativeInt = 3,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(size, context, time)
        self.width, self.depth, self.keep = width, depth, 1.0 - dropout
        self.condition = nn.Sequential(
            nn.Linear(context + time, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.modulation = nn.Linear(width, (3 * depth + 2) * width)
        self.first = nn.Linear(size, width)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, size)
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def row_memory(self) -> int:
        return (3 * self.depth + 6) * self.width + self.context

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh masks (K, rows, width)."""
        if not self.training or self.keep == 1.0:
            return None
        shape = (self.depth, rows, self.width)
        return torch.rand(shape, device=device).lt_(self.keep).div_(self.keep)

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        condition = self.condition(torch.cat([context, time], dim=-1))
        scales = self.modulation(condition).chunk(3 * self.depth + 2, dim=-1)
        h = self.first(noisy)
        for k, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            scale, shift, gate = scales[3 * k : 3 * k + 3]
            update = F.silu(up(modulate(h, scale, shift)))
            if masks is not None:
                update = update * masks[k]
            h = h + gate * down(update)
        return self.last(modulate(h, *scales[-2:]))


def modulate(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (1 + scale) norm(h) + shift, with zero mean and unit variance over the last axis."""
    return torch.addcmul(shift, 1 + scale, F.layer_norm(h, h.shape[-1:]))
