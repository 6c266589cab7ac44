"""The result of a metric: one number for each test set, or one for each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Metric = TypeVar("Metric", bound=Callable[..., Any])
Tick = Callable[[int], None]  # takes the number of finished test sets; may raise to stop


@dataclass(frozen=True)
class Scores:
    """One value for each test set.

    Attributes:
        definition: the sentence beside the numbers.
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
        """Return mean and standard error of values (B,)."""
        n = len(values)
        sem = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(definition, values, float(np.mean(values)), sem)


@dataclass(frozen=True)
class ComparedScores(Scores):
    """One value for each test set, and the band of their mean.

    Attributes:
        null_band: range from 5 to 95 % of `mean` for a perfect sampler; None where it is not known.
    """

    null_band: np.ndarray | None = None

    @classmethod
    def within(cls, definition: str, values: np.ndarray, band: np.ndarray | None) -> ComparedScores:
        """Return the scores of values (B,) beside a band (2,)."""
        scores = Scores.of(definition, values)
        return cls(definition, values, scores.mean, scores.sem, band)


@dataclass(frozen=True)
class Stream:
    """How a metric is measured on a few test sets at a time.

    Attributes:
        parts: function of some of theta, draws, references and prior, for b test sets;
            it may also take `all_theta` (B, D), of all test sets, and `rows`, the slice of them that these are.
            Returns arrays (b, ...).
        join: function of those arrays for all test sets, the number of draws, and draws of the prior; returns
            what the metric does.
        dear: whether `parts` takes so long that it is work of its own.
    """

    parts: Callable[..., dict[str, np.ndarray]]
    join: Callable[[Mapping[str, np.ndarray], int, np.ndarray], Any]
    dear: bool = False


def streamed(
    parts: Callable[..., dict[str, np.ndarray]],
    join: Callable[[Mapping[str, np.ndarray], int, np.ndarray], Any],
    dear: bool = False,
) -> Callable[[Metric], Metric]:
    """Mark a metric that may be measured on a few test sets at a time, see `Stream`.

    Its numbers are equal, and null bands up to their own sampling error.
    """

    def marked(metric: Metric) -> Metric:
        metric.stream = Stream(parts, join, dear)  # type: ignore[attr-defined]
        return metric

    return marked


@dataclass(frozen=True)
class ParameterScores:
    """One value for each test set and parameter, kept as means over the test sets.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over test sets and parameters.
        sem: standard error of the mean over the test sets.
        per_parameter: mean over the test sets, shape (D,).
    """

    definition: str
    mean: float
    sem: float
    per_parameter: np.ndarray

    @classmethod
    def of(cls, definition: str, values: np.ndarray) -> ParameterScores:
        """Return mean and standard error of values (B, D)."""
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


def check_shapes(theta: np.ndarray, draws: np.ndarray) -> None:
    """Refuse true parameters and draws that do not fit together."""
    if theta.ndim != 2 or draws.ndim != 3 or draws.shape[::2] != theta.shape:
        raise ValueError(
            f"theta {theta.shape} and draws {draws.shape}; valid: (B, D) and (B, n, D)"
        )


def check_finite(theta: np.ndarray, draws: np.ndarray, why: str = "") -> None:
    """Refuse NaN and Inf; `why` ends the message."""
    for name, array in (("theta", theta), ("draws", draws)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} hold NaN or Inf{why}")
