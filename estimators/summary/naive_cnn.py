"""A summary of an image by convolutions at full resolution, as in the CMPE paper."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.outputs import masked
from estimators.settings import PositiveInt
from estimators.summary.base import Summary, he_initialise
from estimators.transform import LIMIT, Standardizer


class NaiveCNN(Summary):
    """Convolutions of kernel 3 without padding, each with relu and then a group norm; the mean over the pixels.

    The summary network of the image experiment in Schmitt et al.: Consistency Models for Scalable and
    Fast Simulation-Based Inference (2023), arXiv 2312.05440; the defaults are its sizes.

    Arguments:
        shapes: name -> shape of one simulation's output, one image (H, W) or (H, W, channels).
        channels: of each layer; the last is the size of the summary.
        groups: of the norms; a divisor of all channels.

    Raises:
        ValueError: several outputs, one that is no image or too small, or groups that divide no layer.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        channels: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (64, 64, 128, 128),
        groups: PositiveInt = 8,
    ) -> None:
        super().__init__()
        names = masked(shapes)
        ((self.name, mask),) = names.items() if len(names) == 1 else (("", "several"),)
        shape = shapes.get(self.name, ())
        if mask or len(shape) < 2 or min(shape[:2]) <= 2 * len(channels):
            raise ValueError(
                f"summary 'naive_cnn' takes one image of more than {2 * len(channels)} pixels a side "
                f"for {len(channels)} layers, not {dict(shapes)}"
            )
        if any(count % groups for count in channels):
            raise ValueError(f"groups = {groups} does not divide channels = {list(channels)}")
        counts = [int(torch.Size(shape[2:]).numel()), *channels]
        self.width = channels[-1]
        self.standard = Standardizer((counts[0],))
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(counts))
        self.norms = nn.ModuleList(nn.GroupNorm(groups, count) for count in channels)
        he_initialise(self)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.standard.fit(self._pixels(x).flatten(0, 2))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        h = self.standard(self._pixels(x)).clamp(-LIMIT, LIMIT).movedim(-1, 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = norm(F.relu(layer(h)))
        return h.mean(dim=(2, 3))

    def _pixels(self, x: Mapping[str, Tensor]) -> Tensor:
        return x[self.name].reshape(*x[self.name].shape[:3], -1)
