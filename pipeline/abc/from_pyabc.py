"""Models and priors that were written for pyABC, as simulators of sbiflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyabc
from numpy.random import Generator

from pipeline.errors import UsageError
from simulators import Independent, Simulator
from simulators.distribution import (
    Distribution,
    LogNormal,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
)

Model = Callable[[Mapping[str, float]], Mapping[str, Any]]


def simulator_from_pyabc(
    name: str, model: Model, prior: pyabc.Distribution, version: str = "1"
) -> Simulator:
    """Return a simulator of a pyABC model, to be simulated, trained and evaluated like any other.

    The model draws from numpy's global generator, which is seeded before each simulation: rows follow from the
    seed as those of other simulators do.

    Arguments:
        name, version: of the simulator.
        model: function of a mapping of parameters; returns a mapping of outputs.
        prior: of independent parameters: uniform, norm, lognorm, loguniform, truncnorm or halfnorm, by the
            names of scipy; a normal one also with a `pyabc.LowerBoundDecorator`.

    Raises:
        UsageError: the prior has another distribution.
    """
    own = Independent({key: _distribution(key, prior[key]) for key in prior})
    return Simulator(_Seeded(model, tuple(own.names)), own, name=name, version=version)


@dataclass(frozen=True)
class _Seeded:
    """A pyABC model that follows from a generator."""

    model: Model
    names: tuple[str, ...]

    def __call__(self, theta: np.ndarray, rng: Generator) -> dict[str, np.ndarray]:
        np.random.seed(rng.integers(2**32, size=8, dtype=np.uint32))
        found = self.model(pyabc.Parameter(dict(zip(self.names, theta.tolist(), strict=True))))
        return {key: np.atleast_1d(np.asarray(value, float)) for key, value in found.items()}


def _distribution(key: str, variable: Any) -> Distribution:
    """Return a random variable of pyABC, which is one of scipy, as a distribution of ours."""
    if isinstance(variable, pyabc.LowerBoundDecorator):
        inner = _distribution(key, variable.component)
        if isinstance(inner, Normal):
            return TruncatedNormal(inner.mean, inner.std, low=float(variable.lower_bound))
        raise UsageError(f"the prior of {key!r}: a lower bound is taken for norm alone")
    shapes, loc, scale = variable.distribution.dist._parse_args(*variable.args, **variable.kwargs)
    make = SCIPY.get(variable.name)
    if make is None or (variable.name in POSITIVE and loc != 0):
        raise UsageError(
            f"the prior of {key!r} is {variable.name!r} with loc={loc:g}: valid are {', '.join(SCIPY)}, and "
            f"{', '.join(POSITIVE)} only with loc=0"
        )
    return make(float(loc), float(scale), *map(float, shapes))


# By the names of scipy: from loc, scale and shape parameters.
SCIPY: dict[str, Callable[..., Distribution]] = {
    "uniform": lambda loc, scale: Uniform(loc, loc + scale),
    "norm": Normal,
    "lognorm": lambda loc, scale, s: LogNormal(math.log(scale), s),
    "loguniform": lambda loc, scale, a, b: LogUniform(a * scale, b * scale),
    "reciprocal": lambda loc, scale, a, b: LogUniform(a * scale, b * scale),
    "truncnorm": lambda loc, scale, a, b: TruncatedNormal(
        loc, scale, loc + a * scale, loc + b * scale
    ),
    "halfnorm": lambda loc, scale: TruncatedNormal(loc, scale, low=loc),
}
POSITIVE = ("lognorm", "loguniform", "reciprocal")
