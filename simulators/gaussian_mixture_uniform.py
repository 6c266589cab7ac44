"""Gaussian mixture with a uniform prior: one point from a wide and a narrow distribution.

    theta ~ U(-10, 10)^2,    x ~ 1/2 N(theta, I) + 1/2 N(theta, s^2 I),    s = 0.1

The posterior is a mixture of N(x, I) and N(x, s^2 I), both restricted to the box, with weights
proportional to their mass in the box. `gaussian_mixture` is another task, of ten points.

Definition: the task `gaussian_mixture` of Benchmarking Simulation-Based Inference (2021, arXiv
2101.04653), T.7.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, TruncatedNormal, Uniform
from simulators.factory import simulator
from simulators.simulator import Observation

BOUND = 10.0
STDS = (1.0, 0.1)


def exact(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, shape (n, 2)."""
    parts = [[TruncatedNormal(float(v), std, -BOUND, BOUND) for v in x["x"]] for std in STDS]
    log_mass = np.array([sum(factor.log_mass() for factor in part) for part in parts])
    mass = np.exp(log_mass - log_mass.max())
    narrow = rng.random(n) >= mass[0] / mass.sum()
    draws = [np.column_stack([factor.sample(rng, n) for factor in part]) for part in parts]
    return np.where(narrow[:, None], draws[1], draws[0])


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    square = np.sum((x["x"] - theta) ** 2, axis=1)
    wide, narrow = (-0.5 * square / std**2 - 2 * math.log(std) for std in STDS)
    return np.logaddexp(wide, narrow) - math.log(2) - 2 * LOG_SQRT_2PI


@simulator(
    prior={"theta_1": Uniform(-BOUND, BOUND), "theta_2": Uniform(-BOUND, BOUND)},
    batched=True,
    references={"exact": exact},
    log_likelihood=log_likelihood,
)
def gaussian_mixture_uniform(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 2) at theta of shape (n, 2)."""
    x = rng.standard_normal(theta.shape)
    x *= np.where(rng.random((len(theta), 1)) < 0.5, *STDS)
    x += theta
    return x
