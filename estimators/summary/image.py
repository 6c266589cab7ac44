"""The observation as an image, for networks that take it as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.outputs import masked
from estimators.settings import PositiveInt
from estimators.summary.base import Summary
from estimators.transform import LIMIT, Standardizer


class Image(Summary):
    """The standardised pixels of all outputs, channel after channel, rows first.

    An output (H, W) is one channel and (H, W, ...) as many as its further axes have elements. A channel
    has one mean and one scale over all simulations and pixels. Nothing is learned.

    Arguments:
        shapes: name -> shape of one simulation's output; all have one height and width.
        size: (height, width) to which the images are brought by bilinear interpolation; None leaves them.

    Raises:
        ValueError: an output that is no image, or images of several sizes.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        size: Sequence[PositiveInt] | None = None,
    ) -> None:
        super().__init__()
        names = masked(shapes)
        self.names = list(names)
        wrong = [name for name, mask in names.items() if mask or len(shapes[name]) < 2]
        if wrong or len({shapes[name][:2] for name in names}) != 1:
            raise ValueError(
                f"summary 'image' takes outputs (height, width) or (height, width, channels) of one "
                f"height and width, not {dict(shapes)}"
            )
        if size is not None and len(size) != 2:
            raise ValueError(f"summary 'image': size = {list(size)}; valid is [height, width]")
        given = shapes[self.names[0]][:2]
        self.size = given if size is None else (size[0], size[1])
        self.resizes = self.size != given
        channels = sum(int(torch.Size(shapes[name][2:]).numel()) for name in self.names)
        self.standard = Standardizer((channels,))
        self.width = channels * self.size[0] * self.size[1]

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.standard.fit(self._pixels(x).flatten(0, 2))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        images = self.standard(self._pixels(x)).clamp(-LIMIT, LIMIT).movedim(-1, 1)
        if self.resizes:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images.flatten(1)

    def _pixels(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return all pixels (rows, H, W, channels)."""
        parts = [x[name].reshape(*x[name].shape[:3], -1) for name in self.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
