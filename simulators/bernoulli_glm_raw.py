"""Bernoulli GLM, raw: all hundred time steps of `bernoulli_glm` in place of its ten statistics.

    theta ~ N(0, Q^-1),    x_t | theta ~ Bernoulli(1 / (1 + exp(-psi_t))),  t = 1..100,    psi = V theta

The statistics V^T x are sufficient, so likelihood and posterior are those of `bernoulli_glm`.

Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.6.
"""

from __future__ import annotations

from numpy.random import Generator

from simulators import bernoulli_glm
from simulators.distribution import Array
from simulators.factory import simulator
from simulators.simulator import Observation


def _statistics(x: Observation) -> Observation:
    return {"x": x["x"] @ bernoulli_glm.DESIGN}


def tempered(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, shape (n, 10)."""
    return bernoulli_glm.tempered(_statistics(x), n, rng)


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    return bernoulli_glm.log_likelihood(theta, _statistics(x))


@simulator(
    prior=bernoulli_glm.PRIOR,
    batched=True,
    references={"tempered": tempered},
    log_likelihood=log_likelihood,
)
def bernoulli_glm_raw(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 100), zeros and ones, at theta of shape (n, 10)."""
    return bernoulli_glm.spikes(theta, rng)
