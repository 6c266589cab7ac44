"""What is inferred from what, and the checks of the training rows that say so."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from estimators.outputs import masked
from estimators.transform import SCALES, is_image

KINDS = ("continuous", "integer", "category")
GROUPINGS = ("array", "element")
Grouping = str | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class InferenceProblem:
    """What is inferred from what: the parameters with their bounds and the outputs' shapes."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    x: dict[str, tuple[int, ...]]  # the shape of one simulation's output
    scales: tuple[str, ...] = ()  # linear or log, of each parameter; empty: all linear
    preprocessing: str = "none"  # of the outputs, see `estimators.preprocessing`
    shape: tuple[int, ...] = ()  # of the parameters as an array, of product D; empty: (D,)
    groups: tuple[int, ...] = ()  # of the parameters that share a mean and a scale; empty: none do
    kinds: tuple[str, ...] = ()  # continuous, integer or category; empty: all continuous
    simplexes: tuple[tuple[int, ...], ...] = ()  # columns of parameters that add up to one

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the parameters as an array: (D,), or that of an image."""
        return self.shape or (self.size,)

    @property
    def size(self) -> int:
        """The number D of parameters."""
        return len(self.names)

    @property
    def discrete(self) -> tuple[int, ...]:
        """The columns of the parameters that are whole numbers or categories."""
        return tuple(j for j, kind in enumerate(self.kinds) if kind != KINDS[0])

    @property
    def latent_size(self) -> int:
        """The number of latent coordinates u: the last parameter of a simplex has none."""
        return self.size - len(self.simplexes)

    @classmethod
    def of(
        cls,
        theta: ArrayLike,
        x: Mapping[str, ArrayLike],
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        scales: Sequence[str] | None = None,
        preprocessing: str = "none",
        parameter_shape: Sequence[int] | None = None,
        grouping: Grouping = "array",
        kinds: Sequence[str] | None = None,
        simplexes: Sequence[Sequence[int]] = (),
    ) -> tuple[InferenceProblem, Tensor, dict[str, Tensor]]:
        """Return the problem that training rows pose, and the rows as float32 tensors.

        The arguments are those of `estimators.create`.

        Raises:
            ValueError: shapes that disagree, bounds out of order, values that are not finite, a
                single row, a parameter that never changes or leaves its bounds.
        """
        rows = torch.as_tensor(np.asarray(theta), dtype=torch.float32)
        if rows.ndim != 2 or not rows.numel():
            raise ValueError(f"theta has shape {tuple(rows.shape)}; valid is (n, D), not empty")
        n, size = rows.shape
        names = tuple(names) if names is not None else tuple(f"theta{i}" for i in range(size))
        bounds = {
            "low": _bound("low", low, -np.inf, size),
            "high": _bound("high", high, np.inf, size),
        }
        if len(names) != size:
            raise ValueError(f"{len(names)} names {names} for {size} parameters")
        for name, a, b in zip(names, bounds["low"], bounds["high"], strict=True):
            if not a < b:
                raise ValueError(f"parameter {name!r}: low {a} is not below high {b}")
        scales = _scales(scales or ["linear"] * size, names, rows)
        outputs = {k: torch.as_tensor(np.asarray(v), dtype=torch.float32) for k, v in x.items()}
        for name, values in {"theta": rows, **{f"x[{k!r}]": v for k, v in outputs.items()}}.items():
            if len(values) != n:
                raise ValueError(f"{name} has {len(values)} rows, theta has {n}")
            if not values.isfinite().all():
                raise ValueError(f"{name} holds NaN, infinity, or what float32 cannot hold")
        if n < 2:
            raise ValueError(
                "one simulation is not enough: at least 2 rows give a mean and a scale"
            )
        shape = _shape(parameter_shape, size)
        groups = _groups(grouping, names, shape)
        _check_parameters(names, rows, bounds["low"], bounds["high"], groups)
        kinds = _kinds(kinds or (), names, rows, bounds)
        if groups and (kinds or simplexes):
            raise ValueError("grouping is for parameters that are continuous and of no simplex")
        for name, mask in masked(outputs).items():
            if mask is None:
                _check_output(name, outputs[name])
        shapes = {name: tuple(values.shape[1:]) for name, values in sorted(outputs.items())}
        problem = cls(
            names,
            bounds["low"],
            bounds["high"],
            shapes,
            scales,
            preprocessing,
            () if shape == (size,) else shape,
            groups,
            kinds,
            tuple(tuple(group) for group in simplexes),
        )
        return problem, rows, outputs


def _bound(name: str, given: ArrayLike | None, otherwise: float, size: int) -> tuple[float, ...]:
    values = np.full(size, otherwise) if given is None else np.asarray(given, dtype=np.float64)
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; valid is ({size},)")
    return tuple(values.tolist())


def _scales(given: Sequence[str], names: tuple[str, ...], theta: Tensor) -> tuple[str, ...]:
    if len(given) != len(names):
        raise ValueError(f"{len(given)} scales {tuple(given)} for {len(names)} parameters")
    for name, scale, least in zip(names, given, theta.amin(0).tolist(), strict=True):
        if scale not in SCALES:
            raise ValueError(f"parameter {name!r}: scale {scale!r}; valid: {', '.join(SCALES)}")
        if scale == "log" and not least > 0:
            raise ValueError(f"parameter {name!r} has the scale log, but theta holds {least}")
    return tuple(given)


def _kinds(
    given: Sequence[str],
    names: tuple[str, ...],
    theta: Tensor,
    bounds: Mapping[str, tuple[float, ...]],
) -> tuple[str, ...]:
    """Return what each parameter is; empty where all are continuous."""
    if given and len(given) != len(names):
        raise ValueError(f"{len(given)} kinds {tuple(given)} for {len(names)} parameters")
    for j, kind in enumerate(given):
        if kind not in KINDS:
            raise ValueError(f"parameter {names[j]!r}: kind {kind!r}; valid: {', '.join(KINDS)}")
        if kind == KINDS[0]:
            continue
        if not np.isfinite([bounds["low"][j], bounds["high"][j]]).all():
            raise ValueError(f"parameter {names[j]!r} is {kind} and needs finite bounds")
        broken = theta[:, j] != theta[:, j].round()
        if broken.any():
            value = theta[broken, j][0].item()
            raise ValueError(f"parameter {names[j]!r} is {kind}, but theta holds {value:g}")
    return tuple(given) if any(kind != KINDS[0] for kind in given) else ()


def _shape(given: Sequence[int] | None, size: int) -> tuple[int, ...]:
    shape = (size,) if given is None else tuple(given)
    if math.prod(shape) != size:
        raise ValueError(f"parameter_shape = {shape} holds {math.prod(shape)} of {size} parameters")
    return shape


def _groups(grouping: Grouping, names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the group of each parameter; empty where each stands alone."""
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise ValueError(f"grouping = {grouping!r}; valid: {', '.join(GROUPINGS)}, or groups")
        return (0,) * len(names) if grouping == "array" and is_image(shape) else ()
    number = dict.fromkeys(names, -1)
    for group, members in enumerate(grouping.values()):
        for name in members:
            if name not in number or number[name] >= 0:
                what = "in two groups" if name in number else f"unknown; valid: {_listed(names)}"
                raise ValueError(f"grouping: parameter {name!r} is {what}")
            number[name] = group
    first = len(grouping)
    return tuple(g if g >= 0 else first + k for k, g in enumerate(number.values()))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def _check_parameters(
    names: tuple[str, ...],
    rows: Tensor,
    low: tuple[float, ...],
    high: tuple[float, ...],
    groups: tuple[int, ...],
) -> None:
    """Raise ValueError where a parameter is outside of its bounds, or the same in all rows and its group too."""
    least, most = rows.amin(0).tolist(), rows.amax(0).tolist()
    group = groups or tuple(range(len(names)))
    varies = {g for g, a, b in zip(group, least, most, strict=True) if a < b}
    for k, name in enumerate(names):
        if group[k] not in varies:
            raise ValueError(
                f"parameter {name!r} is {least[k]:.6g} in all {len(rows)} rows: "
                "there is nothing to infer; leave it out"
            )
        slack = 1e-6 * max(abs(bound) for bound in (low[k], high[k], 1e-30) if np.isfinite(bound))
        if least[k] < low[k] - slack or most[k] > high[k] + slack:
            values = rows[:, k]
            outside = (values < low[k] - slack) | (values > high[k] + slack)
            raise ValueError(
                f"parameter {name!r}: {int(outside.sum())} of {len(values)} rows lie outside its "
                f"bounds [{low[k]:g}, {high[k]:g}], for example {values[outside][0].item():.6g}"
            )


def _check_output(name: str, values: Tensor) -> None:
    """Warn of an output, or of elements of a vector, that are the same in all rows."""
    same = (
        (values == values[0]).flatten(1).all(0) if values.ndim > 1 else (values == values[0]).all()
    )
    count, total = int(same.sum()), same.numel()
    edges = values.ndim > 2 or total > 64  # profiles and pictures often have constant edges
    if not count or (edges and count < total):
        return
    which = "is" if count == total else f"has {count} of {total} elements that are"
    warnings.warn(f"x[{name!r}] {which} the same in all {len(values)} rows", stacklevel=4)
