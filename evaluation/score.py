"""What a metric says: one number for each test set, or one for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Tick = Callable[[int], None]  # hears how many test sets are finished; may raise to stop


@dataclass(frozen=True)
class Scores:
    """One value for each test set.

    Attributes:
        values: shape (B,).
        mean: over the test sets.
        sem: standard error of the mean, sd / sqrt(B) with B - 1 in the sd; NaN for one test set.
    """

    definition: str
    values: np.ndarray
    mean: float
    sem: float

    @classmethod
    def of(cls, definition: str, values: np.ndarray) -> Scores:
        n = len(values)
        sem = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(definition, values, float(np.mean(values)), sem)


@dataclass(frozen=True)
class ParameterScores:
    """One value for each test set and parameter, kept as means over the test sets.

    Attributes:
        mean: over test sets and parameters; sem: its standard error over the test sets.
        per_parameter: mean over the test sets, shape (D,).
    """

    definition: str
    mean: float
    sem: float
    per_parameter: np.ndarray

    @classmethod
    def of(cls, definition: str, values: np.ndarray) -> ParameterScores:
        over_sets = Scores.of(definition, values.mean(1))
        return cls(definition, over_sets.mean, over_sets.sem, values.mean(0))


def paired(first: np.ndarray, second: np.ndarray, names: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two stacks of draws as float64 (B, n, D), after checking that they can be compared."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 3 or b.ndim != 3 or (a.shape[0], a.shape[2]) != (b.shape[0], b.shape[2]):
        raise ValueError(f"{names}: shapes {a.shape} and {b.shape}; valid: (B, n, D) and (B, m, D)")
    for name, array in zip(names.split(", "), (a, b), strict=True):
        bad = ~np.isfinite(array).all((1, 2))
        if bad.any():
            raise ValueError(f"{name} hold NaN or Inf in test sets {np.flatnonzero(bad)[:10]}")
    return a, b
