"""Gaussian linear: the mean of a normal distribution with known variance, in D dimensions.

    theta ~ N(0, s^2 I),    x | theta ~ N(theta, s^2 I),    s^2 = 0.1

Prior and likelihood are conjugate and equally wide, so that theta | x ~ N(x / 2, s^2 / 2 I).
Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, Normal
from simulators.factory import simulator
from simulators.prior import Independent
from simulators.simulator import Observation

STD = math.sqrt(0.1)


@simulator(batched=True)
class gaussian_linear:  # noqa: N801 - the simulator's name
    """The mean of a normal distribution.

    Arguments:
        dim: D, the number of parameters and of outputs.
    """

    def __init__(self, dim: int = 10) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"gaussian_linear: dim must be a whole number >= 1, got {dim!r}")
        self.prior = Independent({f"theta_{j}": Normal(0.0, STD) for j in range(1, dim + 1)})
        self.references = {"exact": self.exact}

    def simulate(self, theta: Array, rng: Generator) -> Array:
        x = rng.standard_normal(theta.shape)
        x *= STD
        x += theta
        return x

    def exact(self, x: Observation, n: int, rng: Generator) -> Array:
        """Draw from theta | x ~ N(x / 2, s^2 / 2 I), shape (n, D)."""
        return 0.5 * x["x"] + math.sqrt(0.5) * STD * rng.standard_normal((n, x["x"].size))

    def log_likelihood(self, theta: Array, x: Observation) -> Array:
        """Return log N(x; theta, s^2 I), shape (n,)."""
        z = (x["x"] - theta) / STD
        log_scale = theta.shape[1] * (LOG_SQRT_2PI + math.log(STD))
        return -0.5 * np.sum(z * z, axis=1) - log_scale
