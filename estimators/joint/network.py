"""A transformer whose tokens are all parameters and all outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.joint.states import ABSENT, COUNT
from estimators.network.adaptive_mlp import modulate

LOWEST = 1.0  # frequency of the features of a value
HIGHEST = 16.0


class JointTransformer(nn.Module):
    """One token for each variable; blocks of attention modulated by time.

        h_i = W_{i,s_i} (v_i, sin(w_k v_i) / sqrt(w_k), cos(w_k v_i) / sqrt(w_k)) + b_{i,s_i}
        h = h + A(m_1(h)),   h = h + W_2 silu(W_1 m_2(h))     in each block
        out_i = w . m(h_i) after the last block,   m(h) = (1 + a(t)) norm(h) + b(t)

    with s_i the state of variable i: its weights tell who it is and what is known of it. An absent variable
    has a bias alone. A is attention among the tokens.

    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), arXiv 2212.09748. Gloeckler, Deistler,
    Weilbach, Wood, Macke: All-in-one simulation-based inference (2024), arXiv 2404.09636.

    Arguments:
        size: number N of variables.
        time: number F of features of time.
        width: size of a token.
        depth: number of blocks.
        heads: attention heads; a divisor of the width.
        frequencies: number of frequencies w_k, geometric from 1 to 16.
        connected: which variables attend to which, bool (N, N); None: all to all.

    Raises:
        ValueError: heads do not divide width.
    """

    frequencies: Tensor
    connected: Tensor | None

    def __init__(
        self,
        size: int,
        time: int,
        *,
        width: int,
        depth: int,
        heads: int,
        frequencies: int,
        connected: Tensor | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        self.size, self.width, self.depth = size, width, depth
        exponents = torch.linspace(math.log(LOWEST), math.log(HIGHEST), frequencies)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.register_buffer("connected", connected, persistent=False)
        self.features = 2 * frequencies + 1
        columns = ABSENT * self.features + COUNT  # an absent value has no features
        self.embedding = nn.Parameter(torch.randn(size, columns, width) / self.features**0.5)
        self.condition = nn.Sequential(
            nn.Linear(time, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(JointBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, (4 * depth + 2) * width)
        self.last = nn.Linear(width, 1)
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def row_memory(self) -> int:
        """About how many numbers one row takes in a pass without gradient."""
        return self.size * (16 * self.width + self.size)

    def forward(self, values: Tensor, states: Tensor, time: Tensor) -> Tensor:
        """Return the outputs (rows, N).

        Arguments:
            values: of the variables, scaled to unit variance, (rows, N); those of absent ones have no effect.
            states: see `estimators.joint.states`, (rows, N).
            time: features of time, (rows, F).
        """
        condition = self.condition(time).unsqueeze(1)
        h = torch.matmul(self._features(values, states), self.embedding).transpose(0, 1)
        scales = self.modulation(condition).chunk(4 * self.depth + 2, dim=-1)
        for k, block in enumerate(self.blocks):
            h = block(h, scales[4 * k : 4 * k + 4], self.connected)
        return self.last(modulate(h, *scales[-2:])).squeeze(-1)

    def _features(self, values: Tensor, states: Tensor) -> Tensor:
        """Return the features of values, apart for conditions and targets, and flags, (N, rows, columns)."""
        values, flags = values.T.unsqueeze(-1), F.one_hot(states.T, COUNT).to(values.dtype)
        phase, factor = values * self.frequencies, self.frequencies.rsqrt()
        found = torch.cat([values, phase.sin() * factor, phase.cos() * factor], dim=-1)
        apart = [found * flags[..., state : state + 1] for state in range(ABSENT)]
        return torch.cat([*apart, flags], dim=-1)


class JointBlock(nn.Module):
    """Attention among tokens, then a perceptron for each of them, both with residual connections.

    Arguments:
        width: size of a token.
        heads: number of softmaxes side by side; a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(
        self, h: Tensor, scales: Sequence[Tensor], connected: Tensor | None = None
    ) -> Tensor:
        """Return tokens (rows, N, width).

        Arguments:
            h: tokens, shape (rows, N, width).
            scales: scale and shift before attention, then before the perceptron, each (rows, 1, width).
            connected: which tokens attend to which, bool (N, N); None: all to all.
        """
        scale1, shift1, scale2, shift2 = scales
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attend(modulate(h, scale1, shift1)).chunk(3, dim=-1)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=connected)
        h = h + self.join(found.transpose(1, 2).flatten(2))
        return h + self.down(F.silu(self.up(modulate(h, scale2, shift2))))
