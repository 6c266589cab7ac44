"""A transformer whose tokens are the parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network.adaptive_mlp import modulate
from estimators.network.base import FreeForm
from estimators.settings import PositiveInt


class Transformer(FreeForm):
    """One token for each parameter; blocks of attention modulated by time and context.

        h_i = u_i a_i + b_i,   out_i = w . norm(h_i) after the last block

    Every block adds gated attention among the tokens and a gated perceptron; scales, shifts and
    gates follow from time and context. All gates and the output start at zero.

    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), arXiv 2212.09748.

    Arguments:
        size, context, time: D, C and F.
        width: size of a token.
        depth: number of blocks.
        heads: attention heads; a divisor of the width.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        width: PositiveInt = 64,
        depth: PositiveInt = 3,
        heads: PositiveInt = 4,
    ) -> None:
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        super().__init__(size, context, time)
        self.width = width
        self.slope = nn.Parameter(torch.randn(size, width) / width**0.5)
        self.offset = nn.Parameter(torch.randn(size, width) / width**0.5)
        self.condition = nn.Sequential(
            nn.Linear(context + time, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, 1)
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def row_memory(self) -> int:
        return self.size * (16 * self.width + self.size) + self.context

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        condition = self.condition(torch.cat([context, time], dim=-1)).unsqueeze(1)
        h = noisy.unsqueeze(-1) * self.slope + self.offset
        for block in self.blocks:
            h = block(h, condition)
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return self.last(modulate(h, scale, shift)).squeeze(-1)


class TransformerBlock(nn.Module):
    """Attention among tokens, then a perceptron for each of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.attend = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Return tokens (rows, D, width) for tokens and a condition (rows, 1, width)."""
        *first, gate1, scale2, shift2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        h = h + gate1 * self._attention(modulate(h, *first))
        update = self.down(F.silu(self.up(modulate(h, scale2, shift2))))
        return h + gate2 * update

    def _attention(self, h: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attend(h).chunk(3, dim=-1)
        )
        return self.join(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
