"""Features of a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LogTimeFeatures(nn.Module):
    """Features sin(w_k log(t) / 4), cos(w_k log(t) / 4) of a time t, w_k geometric.

    Arguments:
        count: number of frequencies.
        highest: the highest frequency; the lowest is 1.
    """

    frequencies: Tensor

    def __init__(self, count: int, highest: float = 20.0) -> None:
        super().__init__()
        self.width = 2 * count
        exponents = torch.linspace(0.0, math.log(highest), count)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return features (..., 2 count) for times (...)."""
        phase = 0.25 * t.log().unsqueeze(-1) * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)
