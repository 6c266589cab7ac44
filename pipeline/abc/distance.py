"""Distances by name, for ABC without code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyabc

from pipeline.errors import UsageError

NAMED = ("adaptive", "euclidean", "learned")
Outputs = Mapping[str, np.ndarray]


def euclidean(x: Outputs, y: Outputs) -> float:
    """Return sqrt(sum_k |x_k - y_k|^2) over the outputs k."""
    return float(np.sqrt(sum(np.square(np.asarray(x[k]) - np.asarray(y[k])).sum() for k in y)))


class Learned:
    """Distance of what the summary network of a trained posterior makes of the outputs.

        d(x, y) = |s(x) - s(y)|

    Reference: Constructing summary statistics for approximate Bayesian computation: semi-automatic ABC (2012),
    J. R. Stat. Soc. B 74:419.

    Arguments:
        folder: `posterior/` of a training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._posterior: Any = None
        self._known: dict[bytes, np.ndarray] = {}  # of the observation, the same each time

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_posterior": None, "_known": {}}

    def summary(self, x: Outputs) -> np.ndarray:
        """Return s(x)."""
        import estimators

        if self._posterior is None:
            self._posterior = estimators.load(self.folder)
        return np.asarray(
            self._posterior.summarise({name: np.asarray(value)[None] for name, value in x.items()})
        )[0]

    def __call__(self, x: Outputs, y: Outputs) -> float:
        key = b"".join(np.asarray(y[name]).tobytes() for name in sorted(y))
        if key not in self._known:
            self._known = {key: self.summary(y)}
        return float(np.linalg.norm(self.summary(x) - self._known[key]))


def distance_of(name: str, posterior: Path | None) -> Any:
    """Return a distance: one of `NAMED`, or `package.module:attribute`.

    The attribute is a function d(x, y), a `pyabc.Distance`, or a class of one, which is made without arguments.

    Arguments:
        name: which one.
        posterior: folder of a trained posterior, for `learned`.

    Raises:
        UsageError: unknown, or `learned` without a trained posterior.
    """
    if name == "adaptive":
        return pyabc.AdaptivePNormDistance(p=2)
    if name == "euclidean":
        return euclidean
    if name == "learned":
        if posterior is None:
            raise UsageError("abc.distance=learned needs a trained posterior: run `sbiflow train`")
        return Learned(posterior)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(
            f"abc.distance={name!r}: valid are {', '.join(NAMED)} and package.module:function"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
        return found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"abc.distance={name!r}: {error}") from error
