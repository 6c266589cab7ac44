"""A wide perceptron for images that knows nothing of images: a baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network.base import FreeForm
from estimators.settings import PositiveInt


class NaiveMLP(FreeForm):
    """Residual layers on v = (noisy parameter, context, e(time)).

        h_0 = relu(W_0 v + b_0),   h_k = a_k(h_{k-1} + W_k h_{k-1} + b_k),   out = W h_K + b

    with a_k = relu but for the last residual layer, which has none, and e two dense layers of 64 units,
    with relu between them. The output starts at zero.

    The naive network of the image experiment in Schmitt et al.: Consistency Models for Scalable and Fast
    Simulation-Based Inference (2023), arXiv 2312.05440; the defaults are its sizes.

    Arguments:
        size, context, time: D, C and F.
        width: units in a layer.
        depth: number K of residual layers.
        time_width: units of e.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        width: PositiveInt = 2048,
        depth: PositiveInt = 3,
        time_width: PositiveInt = 64,
    ) -> None:
        super().__init__(size, context, time)
        self.width = width
        self.embed = nn.Sequential(
            nn.Linear(time, time_width), nn.ReLU(), nn.Linear(time_width, time_width)
        )
        self.first = nn.Linear(size + context + time_width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def row_memory(self) -> int:
        return self.first.in_features + 3 * self.width

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        h = F.relu(self.first(torch.cat([noisy, context, self.embed(time)], dim=-1)))
        for k, layer in enumerate(self.layers, 1):
            h = h + layer(h)
            h = F.relu(h) if k < len(self.layers) else h
        return self.last(h)
