"""A summary of sets by attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.network.attention import AttentionBlock, with_token
from estimators.settings import Dropout, PositiveInt
from estimators.summary.base import Elements, Summary


class InducedBlock(nn.Module):
    """Self-attention of a set by way of m induced points: m L comparisons, not L^2."""

    def __init__(self, width: int, heads: int, points: int, dropout: float) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, width))
        self.gather = AttentionBlock(width, heads, dropout)
        self.spread = AttentionBlock(width, heads, dropout)

    def forward(self, elements: Tensor, present: Tensor | None) -> Tensor:
        points = self.points.expand(len(elements), -1, -1)
        return self.spread(elements, self.gather(points, elements, present))


class SetTransformer(Summary):
    """A permutation-invariant summary of a set: induced self-attention, then pooling by attention.

    Set Transformer (2018), arXiv 1810.00825. A learned element belongs to every set, so that an
    empty one has a summary too.

    Arguments:
        shapes: name -> shape (elements, ...) of one simulation's output; the first axis is the set.
        outputs: size of the summary.
        width: size of a vector, a multiple of `heads`.
        heads, blocks: of the attention.
        points: induced points of a block.
        dropout: probability with which training drops an element of a block's residual.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        outputs: PositiveInt = 32,
        width: PositiveInt = 64,
        heads: PositiveInt = 4,
        blocks: PositiveInt = 2,
        points: PositiveInt = 16,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.width = outputs
        self.elements = Elements(shapes)
        self.embed = nn.Linear(self.elements.channels, width)
        self.token = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(
            InducedBlock(width, heads, points, dropout) for _ in range(blocks)
        )
        self.seed = nn.Parameter(torch.randn(1, width))
        self.pool = AttentionBlock(width, heads, dropout)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.elements.fit(x)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        values, present = self.elements(x)
        h, present = with_token(self.token, self.embed(values), present)
        for block in self.blocks:
            h = block(h, present)
        return self.head(self.pool(self.seed.expand(len(h), -1, -1), h, present)[:, 0])
