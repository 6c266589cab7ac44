"""Gaussian mixture: ten points from two components that mirror each other.

    theta ~ N(0, I) in R^2,    x_i ~ 1/2 N(theta, s^2 I) + 1/2 N(-theta, s^2 I),  i = 1..N,  N = 10

With signs e in {-1, 1}^N and S_e = sum_i e_i x_i, expanding the product of the N likelihoods gives
the posterior as a mixture of 2^N normal distributions, each with weight w_e and conjugate moments:

    theta | x ~ sum_e w_e N(v S_e / s^2, v I),    v = 1 / (1 + N / s^2),    w_e ~ exp(v |S_e|^2 / 2 s^4)

Definition: Consistency Models for Scalable and Fast Simulation-Based Inference (2023, arXiv
2312.05440), whose code simulates with s = 0.5 but takes its reference posterior at s^2 = 0.5.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, Normal
from simulators.factory import simulator
from simulators.simulator import Observation

POINTS = 10
STD = 0.5


@functools.cache
def _signs(points: int) -> Array:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=points)))  # (2^N, N)


def _posterior(variance: float, x: Observation, n: int, rng: Generator) -> Array:
    points = x["x"]  # (N, 2)
    sums = _signs(len(points)) @ points  # S_e, (2^N, 2)
    spread = 1 / (1 + len(points) / variance)
    log_weight = 0.5 * spread / variance**2 * np.sum(sums**2, axis=1)
    weight = np.exp(log_weight - log_weight.max())
    chosen = rng.choice(len(sums), size=n, p=weight / weight.sum())
    noise = math.sqrt(spread) * rng.standard_normal((n, 2))
    return spread / variance * sums[chosen] + noise


def consistent(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, with the simulator's variance 0.25, shape (n, 2)."""
    return _posterior(STD**2, x, n, rng)


def as_coded(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the reference of the CMPE paper's code, with variance 0.5, shape (n, 2).

    It is wider than the posterior: a perfect posterior has a C2ST of 0.645 against it.
    """
    return _posterior(0.5, x, n, rng)


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    plus, minus = (
        -0.5 * np.sum((x["x"] - sign * theta[:, None, :]) ** 2, axis=2) / STD**2 for sign in (1, -1)
    )
    constant = math.log(2) + 2 * (LOG_SQRT_2PI + math.log(STD))
    return np.sum(np.logaddexp(plus, minus) - constant, axis=1)


@simulator(
    prior={"theta_1": Normal(0, 1), "theta_2": Normal(0, 1)},
    batched=True,
    references={"consistent": consistent, "as_coded": as_coded},
    log_likelihood=log_likelihood,
)
def gaussian_mixture(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 10, 2) at theta of shape (n, 2)."""
    x = rng.standard_normal((len(theta), POINTS, 2))
    x *= STD
    signs = np.where(rng.random((len(theta), POINTS, 1)) < 0.5, -1.0, 1.0)
    x += signs * theta[:, None, :]
    return x
