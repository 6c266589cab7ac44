"""How far an observation lies outside of what an estimator was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FAR = 1.0  # training standard deviations beyond the training range


class OutOfRangeWarning(UserWarning):
    """An observation lies far outside the training range: the posterior extrapolates."""


class TrainingRange(nn.Module):
    """Smallest and largest value and standard deviation of every element of x in training.

    Arguments:
        shapes: name -> shape of one simulation's output.
    """

    low: Tensor
    high: Tensor
    scale: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))
        size = sum(torch.Size(shape).numel() for shape in shapes.values())
        self.register_buffer("low", torch.full((size,), -torch.inf))
        self.register_buffer("high", torch.full((size,), torch.inf))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Take the range from training outputs, each of shape (n, ...)."""
        start = 0
        for name in self.shapes:
            values = x[name].flatten(1) if x[name].ndim > 1 else x[name].unsqueeze(1)
            place = slice(start, start := start + values.shape[1])
            self.low[place], self.high[place] = values.amin(0), values.amax(0)
            scale = values.double().std(dim=0, correction=0).float()
            # An element that never changed is measured by the whole output.
            self.scale[place] = torch.where(scale > 0, scale, _spread(values))

    def distances(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return how far B observations lie outside, in standard deviations, and in which element.

        Arguments:
            x: each of shape (B, ...).

        Returns:
            The largest distance over the elements, 0 inside, and its element: both of shape (B,).
        """
        flat = torch.cat([x[name].reshape(len(x[name]), -1) for name in self.shapes], dim=1)
        outside = torch.maximum(self.low - flat, flat - self.high).clamp_min(0) / self.scale
        if not flat.shape[1]:
            return flat.new_zeros(len(flat)), flat.new_zeros(len(flat), dtype=torch.long)
        distance, element = outside.max(dim=1)
        return distance, element

    def describe(self, x: Mapping[str, Tensor]) -> str:
        """Return what to warn of, "" where no observation lies far outside."""
        distance, element = self.distances(x)
        far = int((distance > FAR).sum())
        if not far:
            return ""
        worst = int(distance.argmax())
        place = int(element[worst])
        name, index, start = self._element(place)
        value = float(x[name][worst].reshape(-1)[place - start])
        return (
            f"{far} of {len(distance)} observations lie far outside the training range, "
            f"number {worst} by {float(distance[worst]):.3g} training standard deviations: "
            f"x[{name!r}]{index} = {value:.6g}, in training {float(self.low[place]):.6g} to "
            f"{float(self.high[place]):.6g}. The posterior extrapolates there"
        )

    def _element(self, place: int) -> tuple[str, str, int]:
        """Return the output, the index as text and the output's start of a flat place."""
        start = 0
        for name, shape in self.shapes.items():
            size = torch.Size(shape).numel()
            if place < start + size:
                index = torch.unravel_index(torch.tensor(place - start), shape) if shape else ()
                text = ", ".join(str(int(i)) for i in index)
                return name, f"[{text}]" if shape else "", start
            start += size
        raise IndexError(place)


def _spread(values: Tensor) -> Tensor:
    spread = values.double().std(correction=0).float() if values.numel() else torch.ones(())
    return torch.where(spread > 0, spread, torch.ones_like(spread))
