"""SIR: an epidemic in a million people, seen by ten counts of infected among a thousand.

    log beta ~ N(log 0.4, 0.5^2),    log gamma ~ N(log 0.125, 0.2^2)
    dS/dt = -beta S I / N,    dI/dt = beta S I / N - gamma I,    S(0) = N - 1,    I(0) = 1
    x_k ~ Binomial(1000, I(t_k) / N),    t_k = 0, 17, ..., 153 days,    N = 10^6

beta is the rate of infecting contacts and gamma that of recovery, per day. The solution is within 1e-6,
relatively. The draws of the posterior are made by `simulators.tempering` in the standardised
logarithms of beta and gamma. For 100 observations from the prior predictive, with 1000 draws each,
R-hat is at most 1.008 and the effective sample size at least 906.

Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.9, whose code
solves the equations with a relative tolerance of 1e-3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from scipy.special import gammaln, xlog1py, xlogy

from simulators.distribution import Array, LogNormal
from simulators.factory import simulator
from simulators.simulator import Observation
from simulators.tempering import Diagnosis, log_normal
from simulators.two_species import solve

PEOPLE, SEEN = 1e6, 1000
TIMES = np.arange(0.0, 160.0, 17.0)
MEAN, STD = np.log([0.4, 0.125]), np.array([0.5, 0.2])


def infected(theta: Array) -> Array:
    """Return the infected share of the people at the ten times, shape (n, 10)."""
    beta, gamma = theta.T
    rates = np.column_stack([np.zeros(len(theta)), beta, gamma, beta])
    share = solve((1 - 1 / PEOPLE, 1 / PEOPLE), rates, TIMES)[:, 1]
    return np.clip(share, 0, 1)


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    k, share = x["x"], infected(theta)
    choices = gammaln(SEEN + 1) - gammaln(k + 1) - gammaln(SEEN - k + 1)
    return np.sum(choices + xlogy(k, share) + xlog1py(SEEN - k, -share), axis=1)


def posterior(x: Observation, n: int, rng: Generator) -> tuple[Array, Diagnosis]:
    """Draw from the posterior, shape (n, 2), and say how good the draws are."""
    subject = f"sir: x = {x['x'].tolist()}"
    return log_normal(lambda theta: log_likelihood(theta, x), MEAN, STD, n, rng, subject)


def tempered(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, shape (n, 2)."""
    return posterior(x, n, rng)[0]


@simulator(
    prior={"beta": LogNormal(math.log(0.4), 0.5), "gamma": LogNormal(math.log(0.125), 0.2)},
    batched=True,
    references={"tempered": tempered},
    log_likelihood=log_likelihood,
)
def sir(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 10) at theta of shape (n, 2)."""
    return rng.binomial(SEEN, infected(theta)).astype(float)
