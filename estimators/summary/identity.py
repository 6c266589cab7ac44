"""No network at all: the standardised outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from estimators.summary.base import Summary
from estimators.transform import LIMIT, Standardizer, is_image

MOST = 100_000  # numbers; the first layer of a network of width 256 then has 100 MB


class Identity(Summary):
    """The standardised outputs themselves, flattened and joined in the order of their names.

    The elements of an image share one mean and scale.

    Arguments:
        shapes: name -> shape of one simulation's output.

    Raises:
        ValueError: more than 100 000 numbers, for which no network has a layer.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.names = sorted(shapes)
        self.width = sum(math.prod(shapes[name]) for name in self.names)
        if self.width > MOST:
            raise ValueError(
                f"the outputs {', '.join(self.names)} have {self.width} numbers, and without a summary network at"
                f" most {MOST} can be learned from: take a summary such as cnn or temporal_transformer, a"
                " preprocessing, or let the simulator return fewer"
            )
        self.standard = Standardizer((self.width,))
        self.standard.groups = _groups([shapes[name] for name in self.names])

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.standard.fit(self._flat(x))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.standard(self._flat(x)).clamp(-LIMIT, LIMIT)

    def _flat(self, x: Mapping[str, Tensor]) -> Tensor:
        parts = [_vectors(x[name]) for name in self.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _vectors(values: Tensor) -> Tensor:
    return values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)


def _groups(shapes: list[tuple[int, ...]]) -> Tensor | None:
    """Return the group of each element: all of an image are one, others stand alone. None: there is no image."""
    if not any(map(is_image, shapes)):
        return None
    groups: list[int] = []
    for shape in shapes:
        first, size = len(groups), math.prod(shape)
        groups += [first] * size if is_image(shape) else range(first, first + size)
    return torch.tensor(groups)
