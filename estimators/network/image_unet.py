"""A U-Net for parameters and observations that are images of one size."""

from __future__ import annotations

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
from estimators.network.image import Patches, image_shape, observed_channels
from estimators.settings import Flag, PositiveInt


class ImageUNet(FreeForm):
    """Residual convolutions on falling resolutions that see the observation as an image on each of them.

    Patches of p x p pixels of the noisy parameter and of the observation are the channels of the first
    level: the convolutions are wide and see few pixels, which takes less time than the reverse. Level l
    has 2^l `width` channels on 1 / 2^l of that resolution, and the observation, averaged to that
    resolution, is added to it. Time scales and shifts every block. The lowest level attends to itself.
    Blocks and the output start at zero.

    Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239. Dhariwal, Nichol:
    Diffusion Models Beat GANs on Image Synthesis (2021), arXiv 2105.05233.

    Arguments:
        size, context, time: D, C and F; C is a multiple of the number of pixels, see summary `image`.
        parameter_shape: (height, width) or (channels, height, width) that the D parameters have, rows
            first; None is a square with one channel.
        width: channels on the first level.
        levels: resolutions; each halves the one before.
        depth: residual blocks on a level.
        patch: p.
        channels_last: whether a pixel's channels are neighbours in memory.

    Raises:
        ValueError: the shape does not hold D parameters, or the observation is no image of this size.
    """

    def __init__(
        self,
        size: int,
        context: int,
        time: int,
        *,
        parameter_shape: Sequence[PositiveInt] | None = None,
        width: PositiveInt = 64,
        levels: PositiveInt = 2,
        depth: PositiveInt = 2,
        patch: PositiveInt = 2,
        channels_last: Flag = True,
    ) -> None:
        super().__init__(size, context, time)
        shape = image_shape("image_unet", size, parameter_shape)
        self.patches = Patches(shape, patch)
        self.width, self.depth = width, depth
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        drawn = shape[0] * patch**2
        seen = observed_channels("image_unet", context, shape) * patch**2
        widths = [width * 2**level for level in range(levels)]
        self.embed = nn.Sequential(
            nn.Linear(time, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU()
        )
        self.first = nn.Conv2d(drawn + seen, width, 3, padding=1)
        self.seen = nn.ModuleList(nn.Conv2d(seen, wide, 1) for wide in widths if seen)
        self.down = nn.ModuleList(
            nn.ModuleList(_Block(wide, wide, 2 * width) for _ in range(depth)) for wide in widths
        )
        self.halved = nn.ModuleList(Halved(wide, 2 * wide) for wide in widths[:-1])
        self.attention = PixelAttention(widths[-1], heads=_heads(widths[-1]))
        self.enlarged = nn.ModuleList(Enlarged(2 * wide, wide) for wide in widths[:-1])
        self.up = nn.ModuleList(
            nn.ModuleList(
                _Block(wide if k else 2 * wide, wide, 2 * width) for k in range(max(1, depth - 1))
            )
            for wide in widths
        )
        self.norm = group_norm(width)
        self.last = nn.Conv2d(width, drawn, 3, padding=1)
        start_at_zero(self.last)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def row_memory(self) -> int:
        return 8 * (self.depth + 2) * self.width * self.patches.rows * self.patches.columns

    def forward(
        self, noisy: Tensor, context: Tensor, time: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        condition, h, seen = self.embed(time), self.patches.cut(noisy), self.patches.cut(context)
        if self.seen:
            h = torch.cat([h, seen], dim=1)
        h, skips = self.first(h.contiguous(memory_format=self.format)), []
        for level, blocks in enumerate(self.down):
            if level:
                h = self.halved[level - 1](h)
            if self.seen:
                seen = F.avg_pool2d(seen, 2, ceil_mode=True) if level else seen
                h = h + self.seen[level](seen)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, condition)
            skips.append(h)
        h = self.attention(h)
        for level in reversed(range(len(skips))):
            if level < len(skips) - 1:
                h = self.enlarged[level](h, skips[level].shape[-2:])
            h = torch.cat([h, skips[level]], dim=1)
            for block in self.up[level]:  # type: ignore[attr-defined]
                h = block(h, condition)
        return self.patches.join(self.last(F.silu(self.norm(h))))


class _Block(nn.Module):
    """Two convolutions with a shortcut; the condition scales and shifts what is between them."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        start_at_zero(self.conv2)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        update = self.norm2(self.conv1(F.silu(self.norm1(h))))
        return self.short(h) + self.conv2(F.silu(torch.addcmul(shift, 1 + scale, update)))


def _heads(channels: int) -> int:
    """Return as many heads as there are 32 channels, where they divide the channels."""
    heads = max(1, channels // 32)
    return heads if channels % heads == 0 else 1
