"""Priors: the distribution of theta, with its bounds, density, draws and JSON form."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from simulators.distribution import (
    LOG_SQRT_2PI,
    Array,
    Distribution,
    TruncatedNormal,
    check_number,
)

RESERVED = ("rng", "seed")
MIN_ACCEPTANCE = 1e-3  # below it a truncated multivariate normal is refused


class Prior(ABC):
    """The joint distribution of the parameters theta in R^D, in their natural units."""

    names: tuple[str, ...]  # D names, the order of theta's columns
    low: Array  # (D,), -inf where unbounded
    high: Array  # (D,), inf where unbounded

    @property
    def scales(self) -> tuple[str, ...]:
        """The scale of each parameter on which its values are spread out evenly: linear or log."""
        return ("linear",) * len(self.names)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each parameter is: continuous, integer (a whole number) or category."""
        return ("continuous",) * len(self.names)

    @property
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        """The columns of parameters that are positive and add up to one, group by group."""
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameters as an array, of product D: (D,), or that of an image."""
        return (len(self.names),)

    @property
    def has_density(self) -> bool:
        """Whether there is a `log_prob`."""
        return True

    @abstractmethod
    def sample(self, rng: Generator, n: int) -> Array:
        """Draw theta, shape (n, D)."""

    @property
    def has_quantile(self) -> bool:
        """Whether there are a `quantile` and its inverse, `cube`."""
        return False

    def require_quantile(self, purpose: str) -> None:
        """Check that there is a `quantile`; `purpose` says what needs it.

        Raises:
            ValueError: there is none.
        """
        if not self.has_quantile:
            raise ValueError(
                f"{purpose} needs a prior with quantiles: independent continuous parameters, or a multivariate "
                f"normal without bounds. The prior is {self}"
            )

    def quantile(self, u: Array) -> Array:
        """Return theta (n, D) for u (n, D): distributed as the prior where u is uniform on (0, 1)^D."""
        raise NotImplementedError(f"{type(self).__name__} has no quantile")

    def cube(self, theta: Array) -> Array:
        """Return u (n, D), uniform on (0, 1)^D where theta (n, D) has the prior: the inverse of `quantile`."""
        raise NotImplementedError(f"{type(self).__name__} has no quantile")

    @abstractmethod
    def log_prob(self, theta: ArrayLike) -> Array:
        """Return the normalised log p(theta), shape (n,), for theta of shape (n, D)."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return the JSON form; `prior_from` is its inverse."""

    def identity(self) -> dict[str, Any]:
        """Return what identifies the prior: JSON, without where its files lie."""
        return self.spec()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prior):
            return NotImplemented
        return self.names == other.names and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(json.dumps(self.spec()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({json.dumps(self.spec())})"

    def _rows(self, theta: ArrayLike) -> Array:
        rows = np.asarray(theta, dtype=float)
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            columns = f"(n, {len(self.names)}), columns {', '.join(self.names)}"
            raise ValueError(f"theta must have shape {columns}; got shape {rows.shape}")
        return rows


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of parameters; ValueError for one that is not valid."""
    if not names:
        raise ValueError("a prior needs at least one parameter")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise ValueError(
                f"parameter {name!r}: a name must be a Python identifier, not {' or '.join(RESERVED)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"parameter names must differ, got {', '.join(names)}")
    return tuple(names)


class Independent(Prior):
    """A product of one distribution per parameter, p(theta) = prod_j p_j(theta_j).

    Arguments:
        distributions: name of the parameter -> its distribution, in the order of theta's columns.

    Raises: ValueError or TypeError naming the parameter.
    """

    def __init__(self, distributions: Mapping[str, Distribution]) -> None:
        self.names = checked_names(list(distributions))
        for name, distribution in distributions.items():
            if not isinstance(distribution, Distribution):
                what = f"a distribution such as Uniform(-3, 3), got {distribution!r}"
                raise TypeError(f"prior of '{name}' must be {what}")
            distribution.check(name)
        self.distributions = dict(distributions)
        support = np.array([d.support for d in distributions.values()], dtype=float)
        self.low, self.high = support[:, 0].copy(), support[:, 1].copy()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(distribution.kind for distribution in self.distributions.values())

    @property
    def scales(self) -> tuple[str, ...]:
        return tuple(distribution.scale for distribution in self.distributions.values())

    def sample(self, rng: Generator, n: int) -> Array:
        theta = np.empty((n, len(self.names)))
        for j, distribution in enumerate(self.distributions.values()):
            theta[:, j] = distribution.sample(rng, n)
        return theta

    @property
    def has_quantile(self) -> bool:
        return all(kind == "continuous" for kind in self.kinds)

    def quantile(self, u: Array) -> Array:
        columns = zip(self.distributions.values(), u.T, strict=True)
        return np.stack([distribution.quantile(column) for distribution, column in columns], axis=1)

    def cube(self, theta: Array) -> Array:
        columns = zip(self.distributions.values(), theta.T, strict=True)
        return np.stack([distribution.cdf(column) for distribution, column in columns], axis=1)

    def log_prob(self, theta: ArrayLike) -> Array:
        rows = self._rows(theta)
        total = np.zeros(len(rows))
        for j, distribution in enumerate(self.distributions.values()):
            total += distribution.log_prob(rows[:, j])
        return total

    def spec(self) -> dict[str, Any]:
        return {name: distribution.spec() for name, distribution in self.distributions.items()}


class MultivariateNormal(Prior):
    """A multivariate normal distribution, restricted to the box [low, high] where one is given.

        p(theta) = N(theta; mean, covariance) 1[low <= theta <= high] / Z

    Z is exact without a box or with a diagonal covariance; otherwise it comes from a randomised
    integration with a fixed seed, relative error below 1e-5 in few dimensions (Computation of
    Multivariate Normal and t Probabilities, Genz and Bretz 2009). A box is sampled by rejection.

    Arguments:
        names: D names.
        mean: mu, shape (D,).
        covariance: Sigma, shape (D, D), symmetric and positive definite.
        low, high: bounds, shape (D,); None or an infinite or None entry is unbounded.

    Raises: ValueError for wrong shapes, a covariance that is not valid, low >= high (naming the
    parameter), or a box that holds less than 0.001 of the distribution.
    """

    def __init__(
        self,
        names: Sequence[str],
        mean: ArrayLike,
        covariance: ArrayLike,
        low: Sequence[float | None] | Array | None = None,
        high: Sequence[float | None] | Array | None = None,
    ) -> None:
        self.names = checked_names(list(names))
        dim = len(self.names)
        self.mean = finite_numbers("mean", mean, (dim,))
        self.covariance = finite_numbers("covariance", covariance, (dim, dim))
        self.low, self.high = _bound("low", low, dim, -np.inf), _bound("high", high, dim, np.inf)
        for name, a, b in zip(self.names, self.low, self.high, strict=True):
            if not a < b:
                raise ValueError(f"prior of '{name}': needs low < high, got low={a}, high={b}")
        if not np.allclose(self.covariance, self.covariance.T, rtol=1e-8, atol=0):
            raise ValueError(f"covariance must be symmetric, got {self.covariance.tolist()}")
        try:
            self._factor = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            what = f"covariance must be positive definite, got {self.covariance.tolist()}"
            raise ValueError(what) from None
        self._log_mass = self._box_log_mass()
        if self._log_mass < math.log(MIN_ACCEPTANCE):
            raise ValueError(
                f"the box low={self.low.tolist()}, high={self.high.tolist()} holds "
                f"{math.exp(self._log_mass):.2g} of the normal distribution, but rejection needs "
                f"{MIN_ACCEPTANCE}; widen it or use independent truncated_normal parameters"
            )

    def _box_log_mass(self) -> float:
        if not self._bounded:
            return 0.0
        if not np.any(self.covariance - np.diag(np.diag(self.covariance))):
            bounds = zip(
                self.mean, np.sqrt(np.diag(self.covariance)), self.low, self.high, strict=True
            )
            return sum(TruncatedNormal(*map(float, row)).log_mass() for row in bounds)
        from scipy.stats import multivariate_normal

        mass = multivariate_normal.cdf(
            self.high,
            self.mean,
            self.covariance,
            maxpts=1_000_000,
            abseps=1e-9,
            releps=1e-6,
            lower_limit=self.low,
            rng=np.random.default_rng(0),
        )
        return math.log(mass) if mass > 0 else -math.inf

    def sample(self, rng: Generator, n: int) -> Array:
        accepted = [np.empty((0, len(self.names)))]
        missing = n
        while missing > 0:
            proposals = (
                math.ceil(1.1 * missing * math.exp(-self._log_mass)) if self._log_mass else n
            )
            z = rng.standard_normal((proposals, len(self.names)))
            theta = self.mean + z @ self._factor.T
            inside = np.all((theta >= self.low) & (theta <= self.high), axis=1)
            accepted.append(theta[inside][:missing])
            missing -= len(accepted[-1])
        return np.concatenate(accepted)

    @property
    def has_quantile(self) -> bool:
        return not self._bounded

    @property
    def _bounded(self) -> bool:
        return bool(np.any(np.isfinite(self.low) | np.isfinite(self.high)))

    def quantile(self, u: Array) -> Array:
        from scipy.special import ndtri

        self._check_unbounded()
        theta: Array = self.mean + ndtri(u) @ self._factor.T
        return theta

    def cube(self, theta: Array) -> Array:
        from scipy.special import ndtr

        self._check_unbounded()
        u: Array = ndtr(np.linalg.solve(self._factor, (theta - self.mean).T).T)
        return u

    def _check_unbounded(self) -> None:
        if self._bounded:
            raise NotImplementedError("a multivariate normal with bounds has no quantile")

    def log_prob(self, theta: ArrayLike) -> Array:
        rows = self._rows(theta)
        z = np.linalg.solve(self._factor, (rows - self.mean).T)
        log_det = np.sum(np.log(np.diag(self._factor)))
        density = -0.5 * np.sum(z * z, axis=0) - len(self.names) * LOG_SQRT_2PI - log_det
        inside = np.all((rows >= self.low) & (rows <= self.high), axis=1)
        return np.where(inside, density - self._log_mass, -np.inf)

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "name": "multivariate_normal",
            "names": list(self.names),
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
        }
        for key, bound in (("low", self.low), ("high", self.high)):
            if np.any(np.isfinite(bound)):
                spec[key] = [float(b) if math.isfinite(b) else None for b in bound]
        return spec


def finite_numbers(what: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return finite numbers of a shape; ValueError or TypeError that names `what` otherwise."""
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be numbers of shape {shape}, got {value!r}") from None
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got shape {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{what} must be finite, got {array.tolist()}")
    return array


def _bound(
    what: str, value: Sequence[float | None] | Array | None, dim: int, unbounded: float
) -> Array:
    entries = [unbounded] * dim if value is None else list(value)
    if len(entries) != dim:
        raise ValueError(f"{what} must have {dim} entries, got {len(entries)}")
    filled = [unbounded if entry is None else entry for entry in entries]
    for entry in filled:
        check_number(f"an entry of {what}", entry)
    return np.array(filled, dtype=float)
