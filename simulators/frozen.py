"""Distributions of other packages as priors: frozen ones of scipy.stats, and those of torch that are also ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from simulators.discrete import Categorical, Integer
from simulators.distribution import (
    Array,
    Distribution,
    LogNormal,
    Normal,
    Uniform,
    check_number,
)

ON_LOG_SCALE = ("loguniform", "reciprocal", "lognorm")
TORCH = "Normal, LogNormal, Uniform and Categorical, each of one parameter"


@dataclass(frozen=True)
class Scipy(Distribution):
    """A continuous distribution of scipy.stats with its shapes, `loc` and `scale` by name.

    Arguments:
        distribution: its name in scipy.stats, such as "gamma".
        parameters: numbers by name.
    """

    distribution: str
    parameters: Mapping[str, float]
    name: ClassVar[str] = "scipy"

    @cached_property
    def _frozen(self) -> Any:
        import scipy.stats

        kind = getattr(scipy.stats, self.distribution, None)
        if not isinstance(kind, scipy.stats.rv_continuous):
            raise ValueError(f"scipy.stats has no continuous distribution {self.distribution!r}")
        return kind(**self.parameters)

    @property
    def scale(self) -> str:  # type: ignore[override]
        """Log for distributions of the logarithm that begin at 0."""
        wide = self.distribution in ON_LOG_SCALE and not self.parameters.get("loc", 0)
        return "log" if wide else "linear"

    @property
    def support(self) -> tuple[float, float]:
        low, high = self._frozen.support()
        return float(low), float(high)

    def sample(self, rng: Generator, n: int) -> Array:
        values: Array = np.asarray(self._frozen.rvs(size=n, random_state=rng), float)
        return values

    def quantile(self, u: Array) -> Array:
        values: Array = self._frozen.ppf(u)
        return values

    def cdf(self, value: Array) -> Array:
        shares: Array = self._frozen.cdf(value)
        return shares

    def log_prob(self, value: ArrayLike) -> Array:
        values: Array = np.asarray(self._frozen.logpdf(value), float)
        return values

    def problem(self) -> str | None:
        low, high = self.support
        return None if low < high else f"valid parameters of scipy.stats.{self.distribution}"

    def check(self, parameter: str) -> None:
        for key, value in self.parameters.items():
            check_number(f"prior of '{parameter}': {key}", value)
        try:
            problem = self.problem()
        except (TypeError, ValueError) as error:
            raise ValueError(f"prior of '{parameter}': {error}") from None
        if problem:
            raise ValueError(f"prior of '{parameter}' needs {problem}, got {dict(self.parameters)}")

    def spec(self) -> dict[str, Any]:
        numbers = {key: float(value) for key, value in self.parameters.items()}
        return {"name": self.name, "distribution": self.distribution} | numbers

    def __hash__(self) -> int:
        return hash((self.distribution, tuple(sorted(self.parameters.items()))))


def scipy_from(parameter: str, spec: Mapping[str, Any]) -> Scipy:
    """Build the distribution of `parameter` from its JSON form; the inverse of `spec()`."""
    given = {key: value for key, value in spec.items() if key != "name"}
    kind = given.pop("distribution", None)
    if not isinstance(kind, str):
        raise ValueError(f"prior of '{parameter}': scipy needs the key 'distribution', like gamma")
    made = Scipy(kind, given)
    made.check(parameter)
    return made


def adopted(parameter: str, value: Any) -> Any:
    """Return a distribution of scipy.stats or torch as one of ours; anything else as it is.

    Raises:
        TypeError: a discrete one, or one of torch that has no counterpart here.
    """
    where = f"prior of '{parameter}'"
    if hasattr(value, "dist") and hasattr(value, "kwds"):
        if not hasattr(value.dist, "pdf"):
            return _discrete(where, value)
        shapes = [name.strip() for name in (value.dist.shapes or "").split(",") if name.strip()]
        numbers = dict(zip([*shapes, "loc", "scale"], value.args, strict=False)) | value.kwds
        return Scipy(value.dist.name, {key: _number(where, one) for key, one in numbers.items()})
    if type(value).__module__.startswith("torch.distributions"):
        return _from_torch(where, value)
    return value


DISCRETE = "valid discrete ones: Integer, Categorical, and scipy.stats' randint and bernoulli"


def _discrete(where: str, value: Any) -> Distribution:
    """Return a discrete distribution of scipy.stats as one of ours."""
    first, last = value.support()
    if value.dist.name == "randint":
        return Integer(int(first), int(last))
    if value.dist.name == "bernoulli" and (first, last) == (0, 1):
        share = float(value.pmf(1))
        return Categorical((1 - share, share))
    raise TypeError(f"{where}: {value.dist.name} is discrete; {DISCRETE}")


def _number(where: str, value: Any) -> float:
    if np.size(value) != 1:
        raise TypeError(f"{where}: one number each is valid, got shape {np.shape(value)}")
    return float(np.asarray(value).reshape(()))


def _from_torch(where: str, value: Any) -> Distribution:
    kind = type(value).__name__

    def number(key: str) -> float:
        return _number(where, getattr(value, key).detach().cpu().numpy())

    if kind == "Uniform":
        return Uniform(number("low"), number("high"))
    if kind in ("Normal", "LogNormal"):
        made = Normal if kind == "Normal" else LogNormal
        return made(number("loc"), number("scale"))
    if kind == "Categorical":
        shares = np.asarray(value.probs.detach().cpu().numpy(), dtype=float)
        if shares.ndim != 1:
            raise TypeError(f"{where}: one parameter each is valid, got shape {shares.shape}")
        return Categorical(tuple((shares / shares.sum()).tolist()))
    if getattr(value.support, "is_discrete", False):
        raise TypeError(f"{where}: torch's {kind} is discrete; {DISCRETE}")
    raise TypeError(
        f"{where}: of torch's distributions {TORCH} are valid; of scipy.stats all continuous ones"
    )
