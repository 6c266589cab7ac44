"""What is done with the simulator's outputs before the summary network, by name.

The simulations are kept as they came and an artefact remembers the name, so that a posterior takes raw
outputs. Nothing here is learned: means and scales belong to the summary networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from estimators import plugins
from estimators.outputs import MASK

if TYPE_CHECKING:  # the names must be known without the price of importing torch
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Outputs = dict[str, "Tensor"]


class Step(Protocol):
    """One transformation of the outputs."""

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
        import torch

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


def steps_of(name: str) -> tuple[Step, ...]:
    """Return the steps of this name: of the table, or a user's `module:attribute` or `file.py:attribute`.

    Raises:
        LookupError: there is none of this name.
        TypeError: what the name leads to is neither a step nor several.
    """
    if name in TABLE:
        return TABLE[name]
    found = plugins.find("preprocessing", name, dict.fromkeys(TABLE, ""))
    steps = tuple(found) if isinstance(found, list | tuple) else (found,)
    for step in steps:
        if not (callable(step) and callable(getattr(step, "shapes", None))):
            raise TypeError(
                f"preprocessing {name!r}: {step!r} is no step; a step is called with outputs and has "
                "`shapes`, see estimators.preprocessing.Step"
            )
    return steps
