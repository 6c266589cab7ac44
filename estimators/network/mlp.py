"""The free-form residual perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network import fused
from estimators.network.base import FreeForm
from estimators.network.product import linear
from estimators.settings import Dropout, NonNegativeInt, PositiveInt


class ResidualMLP(FreeForm):
    """Residual SiLU layers on v = (noisy parameter, context, time); the output starts at zero.

        h_0 = silu(W_0 v + b_0),   h_k = h_{k-1} + m_k silu(W_k h_{k-1} + b_k),   out = W h_K + b

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
        width: PositiveInt = 256,
        depth: NonNegativeInt = 2,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__(size, context, time)
        self.first = nn.Linear(size + context + time, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, size)
        self.keep = 1.0 - dropout
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def row_memory(self) -> int:
        return self.first.in_features + 3 * self.first.out_features

    def masks(self, rows: int, device: torch.device) -> Tensor | None:
        """Return fresh masks (K, rows, width)."""
        if not self.training or self.keep == 1.0:
            return None
        shape = (len(self.layers), rows, self.first.out_features)
        return torch.rand(shape, device=device).lt_(self.keep).div_(self.keep)

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        v = torch.cat([noisy, context, time], dim=-1)
        if fused.applies(self, v):
            return fused.forward(self, v, masks)
        h = F.silu(self.first(v))
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            update = F.silu(linear(h, layer.weight, layer.bias))
            h = h + update if masks is None else torch.addcmul(h, update, masks[k])
        return self.last(h)

    def perceptron_weights(self) -> list[Tensor]:
        layers = [self.first, *self.layers, self.last]
        return [p for layer in layers for p in (layer.weight, layer.bias)]
