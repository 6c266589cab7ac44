"""Layers of networks that convolve images (rows, channels, height, width)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelAttention(nn.Module):
    """Attention among the pixels, added to them; starts at zero.

    Arguments:
        channels: of the image.
        heads: softmaxes side by side; a divisor of the channels.
    """

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.attend = nn.Conv2d(channels, 3 * channels, 1)
        self.join = nn.Conv2d(channels, channels, 1)
        start_at_zero(self.join)

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.attend(self.norm(h)).flatten(2).transpose(1, 2)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in pixels.chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.join(attended.transpose(1, 2).unflatten(2, h.shape[-2:]))


class Halved(nn.Module):
    """Half the resolution, rounded up."""

    def __init__(self, inputs: int, outputs: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs or inputs, 3, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h)


class Enlarged(nn.Module):
    """The resolution of the level above."""

    def __init__(self, inputs: int, outputs: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs or inputs, 3, padding=1)

    def forward(self, h: Tensor, shape: torch.Size) -> Tensor:
        return self.conv(F.interpolate(h, size=shape, mode="nearest"))


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a norm of at least two channels a group: one pixel of one channel has no spread."""
    return nn.GroupNorm(math.gcd(8, channels, max(1, channels // 2)), channels)


def start_at_zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Let a layer's output be zero at the start of training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
