"""Lotka-Volterra: prey and their predators, each counted ten times with an error of ten per cent.

    log alpha, log gamma ~ N(-0.125, 0.5^2),    log beta, log delta ~ N(-3, 0.5^2)
    du/dt = alpha u - beta u v,    dv/dt = -gamma v + delta u v,    u(0) = 30,    v(0) = 1
    log x_k ~ N(log u(t_k), 0.1^2),  log x_{10+k} ~ N(log v(t_k), 0.1^2),    t_k = 0, 2.1, ..., 18.9

u and v are within 1e-6 of the solution, relatively, and clipped to [1e-10, 1e4] before the noise. The
draws of the posterior are made by `simulators.tempering` in the standardised logarithms of theta. For
20 observations from the prior predictive, with 1000 draws each, R-hat is at most 1.009 and the
effective sample size at least 990.

Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.10, whose code
solves the equations with a relative tolerance of 1e-3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, LogNormal
from simulators.factory import simulator
from simulators.simulator import Observation
from simulators.tempering import Diagnosis, log_normal
from simulators.two_species import solve

TIMES = np.array([2.1 * k for k in range(10)])
START = (30.0, 1.0)
NOISE = 0.1
NAMES = ("alpha", "beta", "gamma", "delta")
MEAN, STD = np.array([-0.125, -3.0, -0.125, -3.0]), 0.5


def log_numbers(theta: Array) -> Array:
    """Return the logarithms of prey, then predators, at the ten times, shape (n, 20)."""
    numbers = solve(START, theta, TIMES).reshape(len(theta), 2 * len(TIMES))
    return np.log(np.clip(numbers, 1e-10, 1e4))


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    log_x = np.log(x["x"])
    z = (log_x - log_numbers(theta)) / NOISE
    return np.sum(-0.5 * z * z - log_x - LOG_SQRT_2PI - math.log(NOISE), axis=1)


def posterior(x: Observation, n: int, rng: Generator) -> tuple[Array, Diagnosis]:
    """Draw from the posterior, shape (n, 4), and say how good the draws are."""
    subject = f"lotka_volterra: x = {x['x'].tolist()}"
    return log_normal(lambda theta: log_likelihood(theta, x), MEAN, STD, n, rng, subject)


def tempered(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, shape (n, 4)."""
    return posterior(x, n, rng)[0]


@simulator(
    prior={name: LogNormal(float(mean), STD) for name, mean in zip(NAMES, MEAN, strict=True)},
    batched=True,
    references={"tempered": tempered},
    log_likelihood=log_likelihood,
)
def lotka_volterra(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 20) at theta of shape (n, 4)."""
    x = log_numbers(theta)
    x += NOISE * rng.standard_normal(x.shape)
    return np.exp(x)
