"""A summary of series by attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network.attention import AttentionBlock, with_token
from estimators.settings import Dropout, PositiveInt
from estimators.summary.base import Elements, Summary


class TemporalTransformer(Summary):
    """A summary of a series: a learned token after blocks of self-attention.

    The series is cut into patches of neighbouring elements; each becomes a vector to which sines and
    cosines of its position are added. Attention Is All You Need (2017), arXiv 1706.03762; An Image
    is Worth 16x16 Words (2020), arXiv 2010.11929.

    Arguments:
        shapes: name -> shape (L, ...) of one simulation's output; the first axis is time or space.
        outputs: size of the summary.
        width: size of a vector, a multiple of `heads`.
        heads, blocks: of the attention.
        patch: elements in a patch; the cost falls at least in proportion.
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
        patch: PositiveInt = 1,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.patch = outputs, patch
        self.elements = Elements(shapes)
        self.embed = nn.Linear(patch * self.elements.channels, width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, dropout) for _ in range(blocks))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))
        patches = -(-self.elements.length // patch)
        self.register_buffer("position", sinusoidal_positions(patches, width), persistent=False)

    position: Tensor

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.elements.fit(x)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        values, present = self.elements(x)
        missing = -values.shape[1] % self.patch
        patches = F.pad(values, (0, 0, 0, missing)).unflatten(1, (-1, self.patch)).flatten(2)
        if present is not None:
            present = F.pad(present, (0, missing)).unflatten(1, (-1, self.patch)).any(2)
        h, present = with_token(self.token, self.embed(patches) + self.position, present)
        *blocks, last = self.blocks
        for block in blocks:
            h = block(h, h, present)
        # Only the token is read.
        return self.head(last(h[:, :1], h, present)[:, 0])


def sinusoidal_positions(positions: int, width: int) -> Tensor:
    """Return sines and cosines of 0 .. positions - 1 at geometric frequencies, (positions, width)."""
    rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    phase = torch.arange(positions)[:, None] * rates
    return torch.stack([phase.sin(), phase.cos()], dim=2).flatten(1)[:, :width]
