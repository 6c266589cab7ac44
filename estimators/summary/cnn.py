"""A summary of series and images by convolution."""

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
from estimators.summary.base import Summary, he_initialise, masked_mean, zero_absent
from estimators.transform import LIMIT, Standardizer

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


class CNN(Summary):
    """A summary of a series or an image: convolutions that halve it, then the mean over what is left.

    An output (L,) is a series and (H, W) an image; further axes are channels. `axes=1` takes
    (L, C) as a series of C channels. A mask, along the first axis, zeroes the absent elements
    of every layer.

    Arguments:
        shapes: name -> shape of one simulation's output, one output.
        outputs: size of the summary.
        channels: of each layer; every layer has kernel 3 and stride 2.
        axes: 1 or 2; None is the number of the output's axes, at most 2.

    Raises:
        ValueError: several outputs, or fewer axes than asked for.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        outputs: PositiveInt = 32,
        channels: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (32, 64, 64),
        axes: int | None = None,
    ) -> None:
        super().__init__()
        names = masked(shapes)
        if len(names) != 1:
            raise ValueError(f"summary 'cnn' takes one output, not {sorted(names)}; see 'fusion'")
        ((self.name, self.mask),) = names.items()
        shape = shapes[self.name]
        self.axes = min(len(shape), 2) if axes is None else axes
        if self.axes not in CONVOLUTIONS or len(shape) < self.axes:
            raise ValueError(
                f"axes = {axes!r} for output {self.name!r} of shape {shape}; valid: 1, 2"
            )
        counts = [int(torch.Size(shape[self.axes :]).numel()), *channels]
        self.width = outputs
        self.standard = Standardizer((counts[0],))
        kind = CONVOLUTIONS[self.axes]
        self.layers = nn.ModuleList(
            kind(a, b, kernel_size=3, stride=2, padding=1) for a, b in itertools.pairwise(counts)
        )
        self.head = nn.Linear(counts[-1], outputs)
        he_initialise(self)

    def fit(self, x: Mapping[str, Tensor]) -> None:
        values, present = self._places(x)
        flat = values if present is None else values[present]
        if flat.numel():
            self.standard.fit(flat.reshape(-1, flat.shape[-1]))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        values, present = self._places(x)
        h = self.standard(values).clamp(-LIMIT, LIMIT)
        for layer in self.layers:
            h = h if present is None else zero_absent(h, present)
            h = F.silu(layer(h.movedim(-1, 1))).movedim(1, -1)
            present = None if present is None else present[:, ::2]
        if self.axes == 2:
            h = h.mean(dim=2)
        return self.head(masked_mean(h, present))

    def _places(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the values (rows, *axes, channels) and the mask of the first axis."""
        values = x[self.name].reshape(*x[self.name].shape[: self.axes + 1], -1)
        return values, None if self.mask is None else x[self.mask] > 0
