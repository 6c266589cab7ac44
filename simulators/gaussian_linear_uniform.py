"""Gaussian linear with a uniform prior: the mean of a normal distribution, within a box.

    theta ~ U(-1, 1)^D,    x | theta ~ N(theta, s^2 I),    s^2 = 0.1

The posterior is N(x, s^2 I) restricted to the box: each theta_j is drawn by the inverse of its
truncated distribution function.

Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, TruncatedNormal, Uniform
from simulators.factory import simulator
from simulators.prior import Independent
from simulators.simulator import Observation

BOUND = 1.0
STD = math.sqrt(0.1)


@simulator(batched=True)
class gaussian_linear_uniform:  # noqa: N801 - the simulator's name
    """The mean of a normal distribution, with a uniform prior.

    Arguments:
        dim: D, the number of parameters and of outputs.
    """

    def __init__(self, dim: int = 10) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            what = f"dim must be a whole number >= 1, got {dim!r}"
            raise ValueError(f"gaussian_linear_uniform: {what}")
        self.prior = Independent({f"theta_{j}": Uniform(-BOUND, BOUND) for j in range(1, dim + 1)})
        self.references = {"exact": self.exact}

    def simulate(self, theta: Array, rng: Generator) -> Array:
        x = rng.standard_normal(theta.shape)
        x *= STD
        x += theta
        return x

    def exact(self, x: Observation, n: int, rng: Generator) -> Array:
        """Draw from N(x, s^2 I) within the box, shape (n, D)."""
        columns = [TruncatedNormal(float(v), STD, -BOUND, BOUND).sample(rng, n) for v in x["x"]]
        return np.column_stack(columns)

    def log_likelihood(self, theta: Array, x: Observation) -> Array:
        """Return log N(x; theta, s^2 I), shape (n,)."""
        z = (x["x"] - theta) / STD
        log_scale = theta.shape[1] * (LOG_SQRT_2PI + math.log(STD))
        return -0.5 * np.sum(z * z, axis=1) - log_scale
