"""Observations in the forms that people have them: one or several, a mapping or one array, padded or shorter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from estimators.outputs import MASK

Shapes = Mapping[str, tuple[int, ...]]
Observation = Mapping[str, ArrayLike] | ArrayLike


def batched(shapes: Shapes, x: Observation) -> tuple[dict[str, np.ndarray], bool]:
    """Return the arrays of B observations, each of shape (B, ...), and whether a single one was given.

    An output of varying length may be shorter than in training: it is padded, and its mask is added.

    Arguments:
        shapes: the arrays that the posterior takes: name -> shape.
        x: the outputs of one observation or of B by name; or one array, where there is one output.

    Raises:
        ValueError: other names or shapes; the message says what is valid.
    """
    if not shapes and isinstance(x, Mapping):  # a prior has no observation
        return {name: np.asarray(values) for name, values in x.items()}, False
    outputs = {name: tuple(shape) for name, shape in shapes.items() if not _is_mask(shapes, name)}
    arrays = _by_name(outputs, x)
    masks = {name: arrays.pop(name) for name in list(arrays) if _is_mask(shapes, name)}
    if set(outputs) != set(arrays):
        raise ValueError(f"x has the arrays {sorted(arrays)}; valid are {sorted(outputs)}")
    single = {name: _fits(name, arrays[name].shape, shapes) for name in outputs}
    if len(set(single.values())) != 1:
        ones = ", ".join(name for name, one in single.items() if one)
        raise ValueError(f"some arrays of x hold one observation ({ones}), others several")
    if one := next(iter(single.values())):
        arrays = {name: values[None] for name, values in arrays.items()}
        masks = {name: values[None] for name, values in masks.items()}
    counts = {name: len(values) for name, values in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays of x hold different numbers of observations: {counts}")
    return _padded(shapes, arrays) | masks, one


def absent_outputs(shapes: Shapes, x: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Return NaN for every output that is left out of observations.

    Arguments:
        shapes: see `batched`. x: outputs by name; without any it is one observation.
    """
    if set(x) == {""}:
        return {}
    known = {name: np.shape(values) for name, values in x.items() if name in shapes}
    several = [got[:1] for name, got in known.items() if len(got) > len(shapes[name])]
    first = several[0] if several else ()
    left = {name: shape for name, shape in shapes.items() if name not in x}
    return {name: np.full((*first, *shape), np.nan) for name, shape in left.items()}


def _by_name(outputs: Shapes, x: Observation) -> dict[str, np.ndarray]:
    if isinstance(x, Mapping):
        arrays = {str(name): np.asarray(values) for name, values in x.items()}
    else:
        arrays = {"": np.asarray(x)}
    if set(arrays) == {""}:  # one array without a name
        if len(outputs) != 1:
            raise ValueError(
                f"x is one array without a name; give the outputs by name: {', '.join(outputs)}"
            )
        arrays = {next(iter(outputs)): arrays[""]}
    return arrays


def _is_mask(shapes: Shapes, name: str) -> bool:
    return name.endswith(MASK) and name.removesuffix(MASK) in shapes


def _fits(name: str, got: tuple[int, ...], shapes: Shapes) -> bool:
    """Return whether a shape is that of one observation (True) or of several (False)."""
    shape = tuple(shapes[name])
    ragged = f"{name}{MASK}" in shapes
    for single, inner in ((True, got), (False, got[1:])):
        if not single and not got:
            continue
        shorter = ragged and len(inner) == len(shape) and inner[0] <= shape[0]
        if inner == shape or (shorter and inner[1:] == shape[1:]):
            return single
    several = ", ".join(["B", *map(str, shape)])
    raise ValueError(
        f"x[{name!r}] has shape {got}; valid is ({several}) for B observations, or {shape} for one"
        f"{', or shorter' if ragged else ''}"
    )


def _padded(shapes: Shapes, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bring outputs of varying length to the training's length, with their masks."""
    result = dict(x)
    for name, values in x.items():
        if f"{name}{MASK}" in shapes:
            longest, length = shapes[name][0], values.shape[1]
            width = [(0, 0), (0, longest - length), *[(0, 0)] * (values.ndim - 2)]
            result[name] = np.pad(values, width)
            present = np.arange(longest) < length
            result[f"{name}{MASK}"] = np.tile(present.astype(np.float32), (len(values), 1))
    return result
