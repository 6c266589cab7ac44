"""A U-Net for parameters that are an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.estimator import within
from estimators.network.base import FreeForm


class UNet(FreeForm):
    """Residual convolutions on falling resolutions; time and context enter as biases of the blocks.

    Level l has 2^l `width` channels on 1 / 2^l of the resolution. The lowest level attends to itself.
    Blocks and the output start at zero.

    Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models (2020), arXiv 2006.11239; the sizes of
    Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
    2312.05440, are the defaults.

    Arguments:
        size, context, time: D, C and F.
        image: shape (height, width) or (channels, height, width) that the D parameters have, rows
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
        image: Sequence[int] | None = None,
        width: int = 16,
        levels: int = 3,
        depth: int = 2,
    ) -> None:
        within("width", width, 1, integer=True)
        within("levels", levels, 1, integer=True)
        within("depth", depth, 1, integer=True)
        super().__init__(size, context, time)
        self.image = _image(size, image)
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
                down.append(_Block(channels, wide, condition, attends=lowest))
                skips.append(channels := wide)
            if not lowest:
                down.append(_Down(wide))
                skips.append(wide)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(depth + 1):
                lowest = level == levels - 1
                up.append(_Block(channels + skips.pop(), wide, condition, attends=lowest))
                channels = wide
            if level:
                up.append(_Up(wide))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.middle = nn.ModuleList(
            _Block(widths[-1], widths[-1], condition, attends=attends) for attends in (True, False)
        )
        self.norm = _norm(width)
        self.last = nn.Conv2d(width, self.image[0], 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @property
    def floats(self) -> int:
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
            h = layer(h, condition)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, condition)
        for layer in self.up:
            if isinstance(layer, _Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), condition)
            else:
                h = layer(h, skips[-1].shape[-2:])
        return self.last(F.silu(self.norm(h))).flatten(1)


class _Block(nn.Module):
    """Two convolutions with a shortcut; the condition is a bias between them."""

    def __init__(self, inputs: int, outputs: int, condition: int, *, attends: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bias = nn.Linear(condition, outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = _Attention(outputs) if attends else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(h))) + self.bias(condition)[:, :, None, None]
        h = self.short(h) + self.conv2(F.silu(self.norm2(update)))
        return h if self.attention is None else self.attention(h)


class _Attention(nn.Module):
    """Attention among the pixels, added to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.attend = nn.Conv2d(channels, 3 * channels, 1)
        self.join = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.attend(self.norm(h)).flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(*pixels.chunk(3, dim=-1))
        return h + self.join(attended.transpose(1, 2).unflatten(2, h.shape[-2:]))


class _Down(nn.Module):
    """Half the resolution, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return self.conv(h)


class _Up(nn.Module):
    """The resolution of the level above."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, shape: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(h, size=shape, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    # At least two channels in a group: one pixel of one channel has no spread.
    return nn.GroupNorm(math.gcd(8, channels, max(1, channels // 2)), channels)


def _image(size: int, given: Sequence[int] | None) -> tuple[int, int, int]:
    """Return (channels, height, width) of D parameters."""
    if given is None:
        side = math.isqrt(size)
        given = (side, side)
    for edge in given:
        within("image", edge, 1, integer=True)
    shape = (1, *given) if len(given) == 2 else tuple(given)
    if len(shape) != 3 or math.prod(shape) != size:
        raise ValueError(
            f"network 'unet': image = {list(given)} does not hold {size} parameters; "
            "valid is (height, width) or (channels, height, width) with this product"
        )
    return shape
