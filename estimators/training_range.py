"""How far an observation lies outside of what an estimator was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from estimators.outputs import MASK, masked
from estimators.transform import is_image

NUMBERS = 2**22  # converted to float64 at a time
FAR = 1.0  # training standard deviations beyond the training range


class OutOfRangeWarning(UserWarning):
    """An observation lies far outside the training range: the posterior extrapolates."""


class TrainingRange(nn.Module):
    """Smallest and largest value and standard deviation of every element of x in training.

    An output `a` of varying length has its mask beside it, `a_mask`; absent elements do not count.

    Arguments:
        shapes: name -> shape of one simulation's output.
    """

    low: Tensor
    high: Tensor
    scale: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = {name: shapes[name] for name in masked(shapes)}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.register_buffer("low", torch.full((sum(self.sizes),), -torch.inf))
        self.register_buffer("high", torch.full((sum(self.sizes),), torch.inf))
        self.register_buffer("scale", torch.ones(sum(self.sizes)))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Take the range from training outputs, each of shape (n, ...)."""
        if not self.shapes:
            return
        flat = self._flat(x)
        absent = flat.isnan()
        never = absent.all(0)
        self.low.copy_(flat.masked_fill(absent, torch.inf).amin(0).masked_fill(never, -torch.inf))
        self.high.copy_(flat.masked_fill(absent, -torch.inf).amax(0).masked_fill(never, torch.inf))
        scale = _spread(flat)
        # An element that never changed, and each of an image, is measured by the whole output.
        whole = torch.cat([_spread(p.flatten()).expand(p.shape[1]) for p in self._parts(flat)])
        image = [
            torch.full((size,), is_image(shape))
            for shape, size in zip(self.shapes.values(), self.sizes, strict=True)
        ]
        own = (scale > 0) & ~torch.cat(image).to(scale.device)
        self.scale.copy_(torch.where(own, scale, whole))
        self.scale.masked_fill_(self.scale == 0, 1.0)

    def distances(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return how far B observations lie outside, in standard deviations, and in which element.

        Arguments:
            x: each of shape (B, ...).

        Returns:
            The largest distance over the elements, 0 inside, and its element: both of shape (B,).
        """
        flat = self._flat(x)
        if not flat.numel():
            return flat.new_zeros(len(flat)), flat.new_zeros(len(flat), dtype=torch.long)
        outside = torch.maximum(self.low - flat, flat - self.high).clamp_min(0) / self.scale
        distance, element = outside.nan_to_num(0.0, posinf=torch.inf).max(dim=1)
        return distance, element

    def describe(self, x: Mapping[str, Tensor]) -> str:
        """Return what to warn of, "" where no observation lies far outside."""
        distance, element = self.distances(x)
        far = int((distance > FAR).sum())
        if not far:
            return ""
        worst = int(distance.argmax())
        place = int(element[worst])
        name, index, within = self._element(place)
        value = float(x[name][worst].reshape(-1)[within])
        return (
            f"{far} of {len(distance)} observations lie far outside the training range, "
            f"number {worst} by {float(distance[worst]):.3g} training standard deviations: "
            f"x[{name!r}]{index} = {value:.6g}, in training {float(self.low[place]):.6g} to "
            f"{float(self.high[place]):.6g}. The posterior extrapolates there"
        )

    def _element(self, place: int) -> tuple[str, str, int]:
        """Return the output, the index as text and the index in the flat output of a place."""
        for (name, shape), size in zip(self.shapes.items(), self.sizes, strict=True):
            if place < size:
                index = np.unravel_index(place, shape) if shape else ()
                return name, f"[{', '.join(map(str, index))}]" if shape else "", place
            place -= size
        raise IndexError(place)

    def _flat(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return all elements side by side, NaN where they are absent."""
        parts = []
        for (name, shape), size in zip(self.shapes.items(), self.sizes, strict=True):
            values = x[name]
            if name + MASK in x:
                present = x[name + MASK] > 0
                present = present.view(*present.shape, *[1] * (len(shape) - 1))
                values = values.masked_fill(~present, torch.nan)
            parts.append(values.reshape(len(values), size))
        return torch.cat(parts, dim=1)

    def _parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        return flat.split(self.sizes, dim=1)


def _spread(values: Tensor) -> Tensor:
    """Return the standard deviation over the rows of what is no NaN, 0 where there is nothing.

    Much is converted to float64 a part at a time, which bounds the memory.
    """
    if values.numel() <= NUMBERS:
        values = values.double()
        mean = values.nanmean(dim=0, keepdim=True)
        return (values - mean).square().nanmean(dim=0).sqrt().nan_to_num(0.0).float()
    if values.ndim > 1 and values.shape[1] == 1:
        return _spread(values[:, 0])[None]
    if values.ndim > 1:
        columns = max(1, NUMBERS // len(values))
        return torch.cat([_spread(part.contiguous()) for part in values.split(columns, dim=1)])
    parts = values.split(NUMBERS)
    count = max(1, sum(int((~part.isnan()).sum()) for part in parts))
    centre = sum(float(part.double().nansum()) for part in parts) / count
    square = sum(float((part.double() - centre).square().nansum()) for part in parts)
    return torch.tensor((square / count) ** 0.5, device=values.device)
