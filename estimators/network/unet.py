"""A U-Net for parameters that are an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.network.base import FreeForm
from estimators.network.convolution import (
    Enlarged,
    Halved,
    PixelAttention,
    group_norm,
    start_at_zero,
)
from estimators.network.image import image_shape
from estimators.settings import PositiveInt


class UNet(FreeForm):
    """Residual convolutions on falling resolutions; time and context enter as biases of the blocks.

    Level l has 2^l `width` channels on 1 / 2^l of the resolution. The lowest level attends to itself.
    Blocks and the output start at zero.

    Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239; the sizes of
    Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
    2312.05440, are the defaults.

    Arguments:
        size, context, time: D, C and F.
        parameter_shape: shape (height, width) or (channels, height, width) that the D parameters have, rows
            first; None is a square with one channel.
        width: channels on the first level.
        levels: resolutions; each halves the one before.
        depth: residual blocks on a level.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        parameter_shape: Sequence[PositiveInt] | None = None,
        width: PositiveInt = 16,
        levels: PositiveInt = 3,
        depth: PositiveInt = 2,
    ) -> None:
        super().__init__(size, context, time)
        self.image = image_shape("unet", size, parameter_shape)
        self.width, self.levels, self.depth = width, levels, depth
        widths = [width * 2**level for level in range(levels)]
        condition = time + context
        self.embed = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(self.image[0], width, 3, padding=1)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        skips, channels = [width], width
        for level, wide in enumerate(widths):
            lowest = level == levels - 1
            for _ in range(depth):
                down.append(_ResidualBlock(channels, wide, condition, attends=lowest))
                skips.append(channels := wide)
            if not lowest:
                down.append(Halved(wide))
                skips.append(wide)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(depth + 1):
                lowest = level == levels - 1
                up.append(_ResidualBlock(channels + skips.pop(), wide, condition, attends=lowest))
                channels = wide
            if level:
                up.append(Enlarged(wide))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.middle = nn.ModuleList(
            _ResidualBlock(widths[-1], widths[-1], condition, attends=attends)
            for attends in (True, False)
        )
        self.norm = group_norm(width)
        self.last = nn.Conv2d(width, self.image[0], 3, padding=1)
        start_at_zero(self.last)

    @property
    def row_memory(self) -> int:
        _, height, wide = self.image
        lowest = math.ceil(height / 2**self.levels) * math.ceil(wide / 2**self.levels)
        return 4 * (self.depth + 3) * self.width * height * wide + 16 * lowest**2

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        condition = F.silu(torch.cat([self.embed(time), context], dim=-1))
        h = self.first(noisy.unflatten(-1, self.image))
        skips = [h]
        for layer in self.down:
            h = layer(h, condition) if isinstance(layer, _ResidualBlock) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, condition)
        for layer in self.up:
            if isinstance(layer, _ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), condition)
            else:
                h = layer(h, skips[-1].shape[-2:])
        return self.last(F.silu(self.norm(h))).flatten(1)


class _ResidualBlock(nn.Module):
    """Two convolutions with a shortcut; the condition is a bias between them."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, attends: bool) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bias = nn.Linear(condition, outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = PixelAttention(outputs) if attends else None
        start_at_zero(self.conv2)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(h))) + self.bias(condition)[:, :, None, None]
        h = self.short(h) + self.conv2(F.silu(self.norm2(update)))
        return h if self.attention is None else self.attention(h)
