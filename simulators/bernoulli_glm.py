"""Bernoulli GLM: the spikes of a neuron that is driven by a noisy current, by ten statistics.

    theta = (offset, nine coefficients of a filter) ~ N(0, Q^-1)
    y_t | theta ~ Bernoulli(1 / (1 + exp(-psi_t))),  t = 1..100,    psi = V theta,    x = V^T y

The first column of V is one; column 1 + j is the current, white noise that is the same in every
simulation, delayed by j. So x_1 is the number of spikes, and the others are the current before
spikes, summed. The prior makes filters smooth: Q = diag(1/2, F^T F), F = D^2 + diag(sqrt(j / 9)), j =
0..8, with D the matrix of differences. x is sufficient for theta:

    log p(y | theta) = theta . x - sum_t log(1 + exp psi_t)

and two sequences with one x have probability zero, so this is log p(x | theta) too. The posterior is
log-concave; its draws are made by `simulators.tempering`, in coordinates of the prior's Cholesky
factor. For 100 observations from the prior predictive, with 1000 draws each, R-hat is at most 1.012
and the effective sample size at least 983.

Definition: Training Deep Neural Density Estimators to Identify Mechanistic Models of Neural Dynamics
(2020, eLife 9:e56261) as in Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task
T.5. The current follows from the seed 42 of numpy's `RandomState`, whose numbers never change.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array
from simulators.factory import simulator
from simulators.prior import MultivariateNormal
from simulators.simulator import Observation
from simulators.tempering import Diagnosis, diagnosed

STEPS, FILTER = 100, 9


def _design() -> Array:
    """Return V, shape (100, 10)."""
    current = np.random.RandomState(42).randn(STEPS)
    design = np.zeros((STEPS, 1 + FILTER))
    design[:, 0] = 1
    for delay in range(FILTER):
        design[delay:, 1 + delay] = current[: STEPS - delay]
    return design


def _prior() -> MultivariateNormal:
    differences = np.eye(FILTER) - np.eye(FILTER, k=-1)
    rough = differences @ differences + np.diag(np.sqrt(np.arange(FILTER) / FILTER))
    precision = np.zeros((1 + FILTER, 1 + FILTER))
    precision[0, 0] = 0.5
    precision[1:, 1:] = rough.T @ rough
    covariance = np.round(np.linalg.inv(precision), 10)  # the same on every processor
    names = [f"theta_{j}" for j in range(1, 2 + FILTER)]
    return MultivariateNormal(names, np.zeros(1 + FILTER), 0.5 * (covariance + covariance.T))


DESIGN = _design()
PRIOR = _prior()
FACTOR = np.linalg.cholesky(PRIOR.covariance)


def spikes(theta: Array, rng: Generator) -> Array:
    """Draw y of shape (n, 100), zeros and ones, at theta of shape (n, 10)."""
    share = 1 / (1 + np.exp(-theta @ DESIGN.T))
    return (rng.random(share.shape) < share).astype(float)


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    return theta @ x["x"] - np.sum(np.logaddexp(0, theta @ DESIGN.T), axis=1)


def posterior(x: Observation, n: int, rng: Generator) -> tuple[Array, Diagnosis]:
    """Draw from the posterior, shape (n, 10), and say how good the draws are."""
    z, diagnosis = diagnosed(
        lambda z: log_likelihood(z @ FACTOR.T, x),
        len(FACTOR),
        n,
        rng,
        f"bernoulli_glm: x = {x['x'].tolist()}",
    )
    return z @ FACTOR.T, diagnosis


def tempered(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, shape (n, 10)."""
    return posterior(x, n, rng)[0]


@simulator(
    prior=PRIOR,
    batched=True,
    references={"tempered": tempered},
    log_likelihood=log_likelihood,
)
def bernoulli_glm(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 10) at theta of shape (n, 10)."""
    return spikes(theta, rng) @ DESIGN
