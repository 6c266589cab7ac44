"""What is done with the simulator's outputs before the summary network, by name.

The simulations are kept as they came and an artefact remembers the name, so that a posterior takes raw
outputs. Nothing here is learned: means and scales belong to the summary networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from estimators.registry import suggest
from estimators.summary import summary_network
from estimators.summary.base import MASK, Summary

Shapes = dict[str, tuple[int, ...]]
Outputs = dict[str, Tensor]


class Step(Protocol):
    """One thing that is done with the outputs."""

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shapes of one simulation's outputs afterwards."""
        ...

    def __call__(self, x: Outputs) -> Outputs:
        """Return the outputs (rows, ...) afterwards; those given stay as they are."""
        ...


@dataclass(frozen=True)
class Crop:
    """Keeps the first `length` elements of outputs, and of their masks."""

    names: tuple[str, ...]
    length: int

    def shapes(self, shapes: Shapes) -> Shapes:
        cut = {
            key: (min(self.length, shapes[key][0]), *shapes[key][1:]) for key in self._keys(shapes)
        }
        return shapes | cut

    def __call__(self, x: Outputs) -> Outputs:
        return x | {key: x[key][:, : self.length] for key in self._keys(x)}

    def _keys(self, given: Mapping[str, object]) -> list[str]:
        return [key for name in self.names for key in (name, name + MASK) if key in given]


@dataclass(frozen=True)
class Log:
    """Replaces an output y >= 0 by log10(y + floor)."""

    name: str
    floor: float

    def shapes(self, shapes: Shapes) -> Shapes:
        return shapes

    def __call__(self, x: Outputs) -> Outputs:
        return x | {self.name: (x[self.name].clamp(min=0) + self.floor).log10()}


@dataclass(frozen=True)
class Stack:
    """Joins outputs of equal shape as the channels of a new one, with a channel of positions 0 .. 1.

    Arguments:
        into: name of the new output, shape (L, number of names + 1).
        names: outputs of shape (L,), which it replaces.
    """

    into: str
    names: tuple[str, ...]

    def shapes(self, shapes: Shapes) -> Shapes:
        (length,) = shapes[self.names[0]]
        rest = {name: shape for name, shape in shapes.items() if name not in self.names}
        return rest | {self.into: (length, len(self.names) + 1)}

    def __call__(self, x: Outputs) -> Outputs:
        channels = [x[name] for name in self.names]
        position = torch.linspace(0, 1, channels[0].shape[1], device=channels[0].device)
        rest = {name: values for name, values in x.items() if name not in self.names}
        joined = torch.stack([*channels, position.expand_as(channels[0])], dim=2)
        return rest | {self.into: joined}


PROFILES = ("extra_cellular_matrix_profile", "proliferation_profile")

TABLE: dict[str, tuple[Step, ...]] = {
    "none": (),
    # Of the CMPE paper (2023), arXiv 2312.05440.
    "tumor_spheroid": (Crop(PROFILES, 300), Stack("profiles", PROFILES)),
    # Matrix and radius span orders of magnitude: their logarithms keep the small values apart.
    "tumor_spheroid_log": (
        Crop(PROFILES, 640),
        Log(PROFILES[0], 1e-6),
        Log("growth_curve", 1.0),
        Stack("profiles", PROFILES),
    ),
}


def summary_of(
    shapes: Mapping[str, tuple[int, ...]],
    preprocessing: str,
    name: str,
    arguments: Mapping[str, Any],
) -> Summary:
    """Return the summary network of raw outputs: the network of this name behind a preprocessing.

    Raises:
        LookupError: unknown preprocessing or summary network.
        ValueError: the outputs are not what the steps expect.
    """
    steps, left = steps_of(preprocessing), dict(shapes)
    for step in steps:
        try:
            left = step.shapes(left)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"preprocessing {preprocessing!r}: {step} does not fit outputs of shapes {left}"
            ) from error
    network = summary_network(name, left, arguments)
    return Preprocessed(steps, network) if steps else network


def steps_of(name: str) -> tuple[Step, ...]:
    """Return the steps of this name.

    Raises:
        LookupError: there is none of this name.
    """
    if name not in TABLE:
        raise LookupError(f"unknown preprocessing {name!r}{suggest(name, sorted(TABLE))}")
    return TABLE[name]


class Preprocessed(Summary):
    """A summary network behind the steps of a preprocessing.

    Arguments:
        steps: what is done with the raw outputs, in order.
        network: takes what comes out.
    """

    def __init__(self, steps: tuple[Step, ...], network: Summary) -> None:
        super().__init__()
        self.steps, self.network = steps, network
        self.width = network.width

    def fit(self, x: Mapping[str, Tensor]) -> None:
        self.network.fit(self._prepare(x))

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.network(self._prepare(x))

    def _prepare(self, x: Mapping[str, Tensor]) -> Outputs:
        outputs = dict(x)
        for step in self.steps:
            outputs = step(outputs)
        return outputs
