"""What every summary network is, and what those of series and sets begin with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from estimators.outputs import masked
from estimators.transform import LIMIT, Standardizer


class Summary(nn.Module):
    """Maps a simulation's outputs, a dict of (rows, ...) tensors, to one vector (rows, width)."""

    width: int

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Standardise by training outputs."""
        raise NotImplementedError

    def select(self, u: Tensor, x: Mapping[str, Tensor]) -> None:
        """Choose among the outputs by training parameters u (n, D); most summaries take all."""


def he_initialise(module: nn.Module) -> None:
    """Draw the weights of linear and convolutional layers with variance 2 / inputs, biases 0.

    So a summary differs between simulations from the start. By torch's own weights its spread is a
    quarter after each layer, and training may wait long for x to matter at all.

    He, Zhang, Ren, Sun: Delving Deep into Rectifiers (2015), arXiv 1502.01852.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Elements(nn.Module):
    """The elements of series or sets: standardised channels (rows, L, C) and which are present.

    Outputs of equal length L are joined as channels, in the order of their names. A channel has one
    mean and one scale, over all simulations and elements; absent elements are zero.

    Arguments:
        shapes: name -> shape (L, ...) of one simulation's output, with at most one mask (L,).

    Raises:
        ValueError: a number, lengths that differ, or more than one mask.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.masks = masked(shapes)
        lengths = {}
        for name in self.masks:
            if not shapes[name]:
                raise ValueError(f"output {name!r} is a number, no series or set")
            lengths[name] = shapes[name][0]
        ragged = [mask for mask in self.masks.values() if mask]
        if len(set(lengths.values())) != 1 or (ragged and len(lengths) > 1):
            raise ValueError(
                f"outputs of lengths {lengths} ({len(ragged)} of them varying) cannot be joined; "
                "give each its own network with summary 'fusion'"
            )
        (self.length,) = set(lengths.values())
        self.mask = ragged[0] if ragged else None
        self.channels = sum(math.prod(shapes[name][1:]) for name in self.masks)
        self.standard = Standardizer((self.channels,))

    def fit(self, x: Mapping[str, Tensor]) -> None:
        """Take mean and scale of each channel from the present elements."""
        values, present = self._raw(x)
        flat = values.flatten(0, 1) if present is None else values[present]
        if len(flat):
            self.standard.fit(flat)

    def forward(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the elements (rows, L, C) and the mask, bool (rows, L), None: all are present."""
        values, present = self._raw(x)
        values = self.standard(values).clamp(-LIMIT, LIMIT)
        return (values if present is None else zero_absent(values, present)), present

    def _raw(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        parts = [
            x[name].flatten(2) if x[name].ndim > 2 else x[name][..., None] for name in self.masks
        ]
        values = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return values, None if self.mask is None else x[self.mask] > 0


def zero_absent(values: Tensor, present: Tensor) -> Tensor:
    """Return values (rows, L, ...) with zeros where `present` (rows, L) says no."""
    return values.masked_fill(~present.view(*present.shape, *[1] * (values.ndim - 2)), 0.0)


def masked_mean(values: Tensor, present: Tensor | None) -> Tensor:
    """Return the mean (rows, C) of the present of elements (rows, L, C), zero where there are none."""
    if present is None:
        return values.mean(dim=1)
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    return zero_absent(values, present).sum(dim=1) / count
