"""Features of a time: of its logarithm, or of a place in [0, 1]."""

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


class UnitTimeFeatures(nn.Module):
    """Features t, sin(pi k t), cos(pi k t), k = 1 ... count, of a time t in [0, 1].

    Arguments:
        count: number of frequencies.
    """

    frequencies: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.width = 2 * count + 1
        frequencies = math.pi * torch.arange(1, count + 1)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return features (..., 2 count + 1) for times (...)."""
        phase = t.unsqueeze(-1) * self.frequencies
        return torch.cat([t.unsqueeze(-1), phase.sin(), phase.cos()], dim=-1)
