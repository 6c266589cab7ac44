"""Attention between vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionBlock(nn.Module):
    """Attention of queries q to elements e, then a perceptron, both with residual connections.

        h = q + A(norm q, norm e),   out = h + W_2 silu(W_1 norm h + b_1) + b_2
        A: softmax(Q K^T / sqrt(width / heads)) V for each head, mixed by a matrix

    Attention Is All You Need (2017), arXiv 1706.03762; norms as in On Layer Normalization in the
    Transformer Architecture (2020), arXiv 2002.04745.

    Arguments:
        width: size of a vector, a multiple of `heads`.
        heads: number of softmaxes side by side.
        dropout: probability with which training drops an element of a residual.

    Raises:
        ValueError: width is no multiple of heads.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width = {width} is no multiple of heads = {heads}")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        # A bias of the keys would shift all scores of a query alike: the softmax ignores it.
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, elements: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the changed queries (rows, Q, width).

        Arguments:
            queries: (rows, Q, width).
            elements: (rows, L, width).
            present: which elements are there, bool (rows, L), at least one in each row; None: all.
        """
        seen = self.norm(elements)
        asking = seen if queries is elements else self.norm(queries)
        found = F.scaled_dot_product_attention(
            self._split(self.query(asking)),
            self._split(self.key(seen)),
            self._split(self.value(seen)),
            attn_mask=None if present is None else present[:, None, None, :],
        )
        h = queries + self.dropout(self.mix(found.transpose(1, 2).flatten(2)))
        return h + self.perceptron(h)

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(2, (self.heads, -1)).transpose(1, 2)


def with_token(
    token: Tensor, elements: Tensor, present: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Put a vector that is always present before the elements, so that none may be there.

    Arguments:
        token: (width,). elements: (rows, L, width). present: bool (rows, L), None: all.
    """
    rows = len(elements)
    elements = torch.cat([token.expand(rows, 1, -1), elements], dim=1)
    if present is not None:
        present = F.pad(present, (1, 0), value=True)
    return elements, present
