"""Distributions of one parameter: the factors of an independent prior.

Each is a frozen description whose fields are its specification. It is checked when it is given to a
prior under the name of a parameter, so that an error can name that parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
KINDS = ("continuous", "integer", "category")  # of a parameter
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(ABC):
    """The distribution of one real parameter v."""

    name: ClassVar[str]
    scale: ClassVar[str] = "linear"  # on which the values are spread out evenly: linear or log
    kind: ClassVar[str] = "continuous"  # one of KINDS

    @property
    @abstractmethod
    def support(self) -> tuple[float, float]:
        """Smallest and largest possible value, infinite where there is none."""

    def sample(self, rng: Generator, n: int) -> Array:
        """Draw `n` values, shape (n,)."""
        return self.quantile(rng.random(n))

    @abstractmethod
    def quantile(self, u: Array) -> Array:
        """Return the values below which the shares u in (0, 1) of the distribution lie."""

    @abstractmethod
    def cdf(self, value: Array) -> Array:
        """Return the shares of the distribution that lie below values of the support."""

    @abstractmethod
    def log_prob(self, value: ArrayLike) -> Array:
        """Return log p(v) with the shape of `value`; -inf outside the support."""

    @abstractmethod
    def problem(self) -> str | None:
        """Say what is wrong with the numbers, None if nothing is."""

    def check(self, parameter: str) -> None:
        """Raise TypeError or ValueError that names the parameter if a number is not valid."""
        for field in fields(self):  # type: ignore[arg-type]
            check_number(f"prior of '{parameter}': {field.name}", getattr(self, field.name))
        if problem := self.problem():
            raise ValueError(f"prior of '{parameter}': {self.name} needs {problem}, got {self}")

    def spec(self) -> dict[str, Any]:
        """Return the JSON form, `{"name": ..., field: number, ...}`, without infinite bounds."""
        numbers = {field.name: float(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        return {"name": self.name} | {key: v for key, v in numbers.items() if math.isfinite(v)}


def check_number(what: str, value: object) -> None:
    """Raise TypeError or ValueError unless `value` is a real number and not NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        hint = ""
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            hint = "; YAML needs a point and a signed exponent in numbers: 1.0e-3"
        raise TypeError(f"{what} must be a number, got {value!r}{hint}")
    if math.isnan(value):
        raise ValueError(f"{what} must be a number, got nan")


def _bounds_problem(low: float, high: float) -> str | None:
    return None if -math.inf < low < high < math.inf else "finite low < high"


def _normal_problem(mean: float, std: float) -> str | None:
    return None if math.isfinite(mean) and 0 < std < math.inf else "a finite mean and 0 < std"


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform distribution, p(v) = 1 / (high - low) on [low, high]."""

    low: float
    high: float
    name: ClassVar[str] = "uniform"

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def problem(self) -> str | None:
        return _bounds_problem(self.low, self.high)

    def quantile(self, u: Array) -> Array:
        value = u * (self.high - self.low)
        value += self.low
        return value

    def cdf(self, value: Array) -> Array:
        return np.clip((value - self.low) / (self.high - self.low), 0, 1)

    def log_prob(self, value: ArrayLike) -> Array:
        v = np.asarray(value, dtype=float)
        inside = (v >= self.low) & (v <= self.high)
        return np.where(inside, -math.log(self.high - self.low), -np.inf)


@dataclass(frozen=True)
class LogUniform(Distribution):
    """Log-uniform distribution, p(v) = 1 / (v log(high / low)) on [low, high], 0 < low."""

    low: float
    high: float
    name: ClassVar[str] = "log_uniform"
    scale: ClassVar[str] = "log"

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def problem(self) -> str | None:
        return None if 0 < self.low < self.high < math.inf else "0 < low < high"

    def quantile(self, u: Array) -> Array:
        a, b = math.log(self.low), math.log(self.high)
        return np.clip(np.exp(a + (b - a) * u), self.low, self.high)

    def cdf(self, value: Array) -> Array:
        a, b = math.log(self.low), math.log(self.high)
        return np.clip((np.log(value) - a) / (b - a), 0, 1)

    def log_prob(self, value: ArrayLike) -> Array:
        v = np.asarray(value, dtype=float)
        inside = (v >= self.low) & (v <= self.high)
        log_v = np.log(np.where(inside, v, self.low))
        return np.where(
            inside, -log_v - math.log(math.log(self.high) - math.log(self.low)), -np.inf
        )


@dataclass(frozen=True)
class Normal(Distribution):
    """Normal distribution with mean and standard deviation `std`."""

    mean: float
    std: float
    name: ClassVar[str] = "normal"

    @property
    def support(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def problem(self) -> str | None:
        return _normal_problem(self.mean, self.std)

    def sample(self, rng: Generator, n: int) -> Array:
        return self.mean + self.std * rng.standard_normal(n)

    def quantile(self, u: Array) -> Array:
        from scipy.special import ndtri

        value: Array = self.mean + self.std * ndtri(u)
        return value

    def cdf(self, value: Array) -> Array:
        from scipy.special import ndtr

        share: Array = ndtr((value - self.mean) / self.std)
        return share

    def log_prob(self, value: ArrayLike) -> Array:
        z = (np.asarray(value, dtype=float) - self.mean) / self.std
        return -0.5 * z * z - LOG_SQRT_2PI - math.log(self.std)


@dataclass(frozen=True)
class LogNormal(Distribution):
    """Log-normal distribution: log v is normal with `mean` and standard deviation `std`."""

    mean: float
    std: float
    name: ClassVar[str] = "log_normal"
    scale: ClassVar[str] = "log"

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, math.inf

    def problem(self) -> str | None:
        return _normal_problem(self.mean, self.std)

    def sample(self, rng: Generator, n: int) -> Array:
        return np.exp(self.mean + self.std * rng.standard_normal(n))

    def quantile(self, u: Array) -> Array:
        return np.exp(Normal(self.mean, self.std).quantile(u))

    def cdf(self, value: Array) -> Array:
        return Normal(self.mean, self.std).cdf(np.log(value))

    def log_prob(self, value: ArrayLike) -> Array:
        v = np.asarray(value, dtype=float)
        inside = v > 0
        log_v = np.log(np.where(inside, v, 1.0))
        return np.where(inside, Normal(self.mean, self.std).log_prob(log_v) - log_v, -np.inf)


@dataclass(frozen=True)
class TruncatedNormal(Distribution):
    """Normal distribution restricted to [low, high] and normalised there, exact far in the tails.

    With a, b the standardised bounds, Z = Phi(b) - Phi(a) and u uniform on [0, 1]:

        p(v) = phi((v - mean) / std) / (std Z),    v = mean + std Phi^-1(Phi(a) + u Z)

    Phi is handled by its logarithm and on the side of the nearer tail.
    """

    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf
    name: ClassVar[str] = "truncated_normal"

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def problem(self) -> str | None:
        ordered = None if self.low < self.high else "low < high"
        return _normal_problem(self.mean, self.std) or ordered

    def _lower_tail(self) -> tuple[float, float, float]:
        """Standardised bounds, mirrored by the sign so that the interval leans to the lower tail."""
        a, b = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        return (a, b, 1.0) if a + b <= 0 or math.isnan(a + b) else (-b, -a, -1.0)

    def sample(self, rng: Generator, n: int) -> Array:
        return self._mirrored_quantile(rng.random(n))

    def quantile(self, u: Array) -> Array:
        return self._mirrored_quantile(u if self._lower_tail()[2] > 0 else 1 - u)

    def _mirrored_quantile(self, u: Array) -> Array:
        """Return the quantile of u, or of 1 - u where the upper tail is the nearer."""
        from scipy.special import log_ndtr, ndtri_exp

        a, b, sign = self._lower_tail()
        with np.errstate(divide="ignore"):  # u = 0 gives the lower bound
            log_cdf = np.logaddexp(log_ndtr(a) + np.log1p(-u), log_ndtr(b) + np.log(u))
        z = ndtri_exp(log_cdf)
        return np.clip(self.mean + sign * self.std * z, self.low, self.high)

    def cdf(self, value: Array) -> Array:
        from scipy.special import log_ndtr

        a, _, sign = self._lower_tail()
        z = np.maximum(sign * (value - self.mean) / self.std, a)
        below = log_ndtr(z)
        with np.errstate(divide="ignore"):  # nothing lies below the bound
            share = np.exp(below + np.log(-np.expm1(log_ndtr(a) - below)) - self.log_mass())
        share = np.clip(share, 0, 1)
        return share if sign > 0 else 1 - share

    def log_mass(self) -> float:
        """Return log Z."""
        from scipy.special import log_ndtr

        a, b, _ = self._lower_tail()
        width, middle = b - a, 0.5 * (a + b)
        if (
            width * max(1.0, abs(middle)) < 1e-3
        ):  # the difference would cancel: expand at the middle
            series = math.log1p(width**2 * (middle**2 - 1) / 24)
            return -0.5 * middle**2 - LOG_SQRT_2PI + math.log(width) + series
        log_a, log_b = float(log_ndtr(a)), float(log_ndtr(b))
        return log_b + math.log(-math.expm1(log_a - log_b))

    def log_prob(self, value: ArrayLike) -> Array:
        v = np.asarray(value, dtype=float)
        inside = (v >= self.low) & (v <= self.high)
        density = Normal(self.mean, self.std).log_prob(v) - self.log_mass()
        return np.where(inside, density, -np.inf)
