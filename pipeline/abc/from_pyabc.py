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
from simulators.distribution import Distribution, LogNormal, LogUniform, Normal, Uniform

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
        prior: of independent parameters: uniform, norm, lognorm or loguniform, by the names of scipy.

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
    given = variable.distribution.dist._parse_args(*variable.args, **variable.kwargs)
    shapes, loc, scale = given
    if variable.name == "uniform":
        return Uniform(float(loc), float(loc + scale))
    if variable.name == "norm":
        return Normal(float(loc), float(scale))
    if variable.name == "lognorm" and loc == 0:
        return LogNormal(math.log(scale), float(shapes[0]))
    if variable.name in ("loguniform", "reciprocal") and loc == 0:
        return LogUniform(float(shapes[0] * scale), float(shapes[1] * scale))
    raise UsageError(
        f"the prior of {key!r} is {variable.name!r} with loc={loc:g}: valid are uniform, norm, and lognorm and"
        " loguniform with loc=0"
    )
