"""Distributions of a parameter that is a whole number or a category."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators.distribution import Array, Distribution, check_number

MOST_VALUES = 1000


class Discrete(Distribution):
    """The distribution of a parameter with the values low, low + 1, ..., high."""

    @property
    @abstractmethod
    def values(self) -> Array:
        """The possible values, ascending."""

    @property
    @abstractmethod
    def shares(self) -> Array:
        """Their probabilities."""

    @property
    def support(self) -> tuple[float, float]:
        return float(self.values[0]), float(self.values[-1])

    def quantile(self, u: Array) -> Array:
        at = np.searchsorted(np.cumsum(self.shares)[:-1], u, side="right")
        return np.asarray(self.values[at])

    def cdf(self, value: Array) -> Array:
        """Return the share below a value and half of its own, so that `quantile` is the inverse."""
        at = self._index(value)
        below = np.cumsum(self.shares) - self.shares
        return np.asarray((below + 0.5 * self.shares)[at])

    def log_prob(self, value: ArrayLike) -> Array:
        """Return log P(v), -inf for what is no possible value."""
        v = np.asarray(value, dtype=float)
        at = self._index(v)
        with np.errstate(divide="ignore"):
            return np.where(self.values[at] == v, np.log(self.shares)[at], -np.inf)

    def _index(self, value: Array) -> NDArray[np.intp]:
        place = np.nan_to_num(np.rint(np.asarray(value) - self.values[0]), nan=0.0)
        return np.clip(place, 0, len(self.values) - 1).astype(np.intp)


@dataclass(frozen=True)
class Integer(Discrete):
    """Whole numbers from `low` to `high`, both included, all equally probable."""

    low: int
    high: int
    name: ClassVar[str] = "integer"
    kind: ClassVar[str] = "integer"

    @property
    def values(self) -> Array:
        return np.arange(self.low, self.high + 1, dtype=float)

    @property
    def shares(self) -> Array:
        return np.full(len(self.values), 1 / len(self.values))

    def problem(self) -> str | None:
        whole = all(math.isfinite(b) and b == int(b) for b in (self.low, self.high))
        if not whole or not 1 <= self.high - self.low < MOST_VALUES:
            return f"whole numbers low < high, at most {MOST_VALUES} values"
        return None


@dataclass(frozen=True)
class Categorical(Discrete):
    """Categories 0, 1, ..., K - 1 with their probabilities, which add up to one."""

    probabilities: Sequence[float]
    name: ClassVar[str] = "categorical"
    kind: ClassVar[str] = "category"

    def __post_init__(self) -> None:
        if isinstance(self.probabilities, (list, tuple, np.ndarray)):
            object.__setattr__(self, "probabilities", tuple(self.probabilities))

    @property
    def values(self) -> Array:
        return np.arange(len(self.probabilities), dtype=float)

    @property
    def shares(self) -> Array:
        return np.array(self.probabilities, dtype=float)

    def problem(self) -> str | None:
        given = self.shares
        right = 2 <= len(given) <= MOST_VALUES and (given > 0).all() and abs(given.sum() - 1) < 1e-9
        return None if right else f"2 to {MOST_VALUES} positive probabilities that add up to 1"

    def check(self, parameter: str) -> None:
        if not isinstance(self.probabilities, tuple):
            raise TypeError(
                f"prior of '{parameter}': probabilities must be a list of numbers, "
                f"got {self.probabilities!r}"
            )
        for value in self.probabilities:
            check_number(f"prior of '{parameter}': a probability", value)
        if problem := self.problem():
            raise ValueError(f"prior of '{parameter}': {self.name} needs {problem}, got {self}")

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "probabilities": [float(p) for p in self.probabilities]}
