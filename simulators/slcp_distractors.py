"""SLCP with distractors: the eight outputs of `slcp` hidden among 92 that say nothing about theta.

    y | theta ~ slcp,    d ~ 1/20 sum_k t_2(m_k, L_k L_k^T) in R^92,    x = (y, d) in a fixed order

t_2 is the multivariate t-distribution with two degrees of freedom, d = m_k + L_k z / sqrt(c / 2),
z ~ N(0, I), c ~ chi^2(2). Since d does not depend on theta, the posterior is that of `slcp` at y,
and its draws are exact. The likelihood is given without its constant factor p(d): the L_k have
condition numbers up to 10^19, too large to be inverted in double precision. Places m_k, factors L_k
and the order are those of the published task; they follow from the seed 42 of numpy's `RandomState`,
whose numbers never change.

Definition: Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.4.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulators.distribution import Array
from simulators.factory import simulator
from simulators.simulator import Observation
from simulators.slcp import exact as slcp_exact
from simulators.slcp import log_likelihood as slcp_log_likelihood
from simulators.slcp import slcp

INFORMATIVE, DISTRACTORS = 8, 92
COMPONENTS, FREEDOM = 20, 2.0


@functools.cache
def _task() -> tuple[Array, Array, NDArray[np.intp]]:
    """Return m, (20, 92), L, (20, 92, 92), and the place in (y, d) of each output, (100,)."""
    rng = np.random.RandomState(42)
    places = 15 * rng.normal(size=(COMPONENTS, DISTRACTORS))
    factors: Array = np.empty((COMPONENTS, DISTRACTORS, DISTRACTORS))
    for k in range(COMPONENTS):
        factors[k] = np.tril(rng.normal(size=(DISTRACTORS, DISTRACTORS)))
        factors[k] += np.diag(np.exp(rng.normal(size=DISTRACTORS)))
    return places, 3 * factors, rng.permutation(INFORMATIVE + DISTRACTORS).astype(np.intp)


def informative() -> NDArray[np.intp]:
    """Return where the outputs of `slcp` lie in x, in their order, shape (8,)."""
    return np.argsort(_task()[2])[:INFORMATIVE]


def _points(x: Observation) -> Observation:
    return {"x": x["x"][informative()]}


def exact(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior of `slcp` at the eight informative outputs, shape (n, 5).

    Raises ValueError where x has (nearly) no probability under the prior.
    """
    return slcp_exact(_points(x), n, rng)


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(y | theta), shape (n,): log p(x | theta) but for a constant, log p(d)."""
    return slcp_log_likelihood(theta, _points(x))


def _distractors(n: int, rng: Generator) -> Array:
    """Draw d, shape (n, 92)."""
    places, factors, _ = _task()
    d = rng.standard_normal((n, DISTRACTORS))
    d /= np.sqrt(rng.chisquare(FREEDOM, (n, 1)) / FREEDOM)
    component = rng.integers(COMPONENTS, size=n)
    for k in range(COMPONENTS):
        rows = component == k
        d[rows] = places[k] + d[rows] @ factors[k].T
    return d


@simulator(
    prior=slcp.prior,
    batched=True,
    references={"exact": exact},
    log_likelihood=log_likelihood,
)
def slcp_distractors(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 100) at theta of shape (n, 5)."""
    points = slcp.simulate_block(theta, rng)["x"]
    return np.concatenate([points, _distractors(len(theta), rng)], axis=1)[:, _task()[2]]
