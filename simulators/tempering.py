"""Draws from a posterior by tempering: populations that are led from the prior to the posterior.

In coordinates z in which the prior is N(0, I), and with the likelihood L, the density at b in [0, 1] is

    p_b(z) ~ N(z; 0, I) L(z)^b

A population starts as draws from p_0, the prior. The next b' is the largest at which the weights
L^{b' - b} have an effective size of half the population; it is resampled by them, and then moved by
Metropolis steps that leave p_b' invariant, in turn t-distributed proposals with the mean and the
covariance of the population, and random walks. The last density, p_1, gets the most moves.

Four populations do not know of each other. How far their means differ tells whether they have
found the same posterior (R-hat); what the last moves left of the earlier state tells how many
independent draws they are worth. Where the means differ, all starts anew with twice the size.

References: Sequential Monte Carlo Samplers (2006, Journal of the Royal Statistical Society B
68:411-436); Nested R-hat: Assessing the Convergence of Markov Chain Monte Carlo When Running Many
Short Chains (2021, arXiv 2110.13017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array

POPULATIONS = 4
SMALLEST = 200  # size of a population
FREEDOM = 5.0  # of the t-distributed proposals
MOVES, LAST_MOVES = 4, 20  # after each resampling, and after the last
MAX_R_HAT = 1.05
ATTEMPTS = 5

LogLikelihood = Callable[[Array], Array]  # z (n, D) -> log L, (n,)


@dataclass(frozen=True)
class Diagnosis:
    """What is known about the quality of draws.

    Arguments:
        r_hat: sqrt(1 + B / W) of the worst coordinate, B the variance between the means of the
            populations, W the variance within them; 1 if they agree.
        effective_size: n / (1 + (s - 1) r^2), where s is the mean number of states with one common
            ancestor at the last resampling and r the correlation that the last moves have left.
        acceptance: share of the last moves that were accepted.
    """

    r_hat: float
    effective_size: float
    acceptance: float


@dataclass
class _Population:
    z: Array  # (size, D)
    value: Array  # log L, (size,)
    siblings: float = 1.0
    kept: float = 0.0
    acceptance: float = 1.0


def tempered(
    log_likelihood: LogLikelihood, dim: int, n: int, rng: Generator, subject: str
) -> Array:
    """Return `n` draws z of p_1, shape (n, dim); the other arguments are those of `diagnosed`."""
    return diagnosed(log_likelihood, dim, n, rng, subject)[0]


def diagnosed(
    log_likelihood: LogLikelihood, dim: int, n: int, rng: Generator, subject: str
) -> tuple[Array, Diagnosis]:
    """Return `n` draws z of p_1, shape (n, dim), in random order, and how good they are.

    Arguments:
        log_likelihood: log L of z (n, dim), shape (n,); NaN counts as no probability.
        dim, n: size and number of the draws.
        subject: what a draw is made for, for the error.

    Raises: ValueError where no draw from the prior is possible, or the populations differ to the end.
    """
    size = max(SMALLEST, math.ceil(n / POPULATIONS))
    for _ in range(ATTEMPTS):
        found = [_population(log_likelihood, dim, size, rng, subject) for _ in range(POPULATIONS)]
        diagnosis = _diagnose(found, n)
        if diagnosis.r_hat <= MAX_R_HAT:
            z = np.concatenate([population.z for population in found])
            return z[rng.permutation(len(z))[:n]], diagnosis
        size *= 2
    what = f"populations of {size // 2} differ, R-hat {diagnosis.r_hat:.2f} > {MAX_R_HAT}"
    raise ValueError(f"{subject}: no reference posterior was found: {what}")


def log_normal(
    log_likelihood: LogLikelihood,
    mean: Array,
    std: Array | float,
    n: int,
    rng: Generator,
    subject: str,
) -> tuple[Array, Diagnosis]:
    """Return draws theta where log theta ~ N(mean, std^2) under the prior, shape (n, D), and how good they are.

    Arguments:
        log_likelihood: of theta (n, D), shape (n,).
        mean, std: of log theta, (D,).
        n, rng, subject: see `diagnosed`, which raises.
    """
    z, diagnosis = diagnosed(
        lambda z: log_likelihood(np.exp(mean + std * z)), len(mean), n, rng, subject
    )
    return np.exp(mean + std * z), diagnosis


def _population(
    log_likelihood: LogLikelihood, dim: int, size: int, rng: Generator, subject: str
) -> _Population:
    def value(z: Array) -> Array:
        return np.nan_to_num(log_likelihood(z), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

    z = rng.standard_normal((size, dim))
    population = _Population(z, value(z))
    if not np.any(np.isfinite(population.value)):
        raise ValueError(f"{subject} has (nearly) no probability under the prior")
    power = 0.0
    while power < 1:
        step = _step(population.value, 1 - power)
        power = 1.0 if step >= 1 - power else power + step
        _resample(population, step, rng)
        _move(population, value, power, MOVES if power < 1 else LAST_MOVES, rng)
    return population


def _weights(value: Array, step: float) -> Array:
    weight = np.exp(step * (value - value.max()))
    return weight / weight.sum()


def _step(value: Array, most: float) -> float:
    """Return the largest step of b, at most `most`, that leaves half of the effective size."""

    def enough(step: float) -> bool:
        return len(value) * float(np.sum(_weights(value, step) ** 2)) <= 2

    if enough(most):
        return most
    low, high = -80.0, math.log(most)
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if enough(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _resample(population: _Population, step: float, rng: Generator) -> None:
    """Resample systematically by the weights of a step."""
    size = len(population.z)
    grid = (np.arange(size) + rng.random()) / size
    chosen = np.searchsorted(np.cumsum(_weights(population.value, step)), grid)
    chosen = np.minimum(chosen, size - 1)
    population.z, population.value = population.z[chosen], population.value[chosen]
    population.siblings = float(np.sum(np.bincount(chosen) ** 2.0)) / size


def _move(
    population: _Population, value: LogLikelihood, power: float, moves: int, rng: Generator
) -> None:
    """Move all states, with proposals that stay the same during these moves."""
    z, log_l = population.z, population.value
    size, dim = z.shape
    mean = z.mean(axis=0)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(z.T)) + 1e-10 * np.eye(dim))

    def log_t(z: Array) -> Array:
        square = np.sum(np.linalg.solve(factor, (z - mean).T) ** 2, axis=0)
        return -0.5 * (FREEDOM + dim) * np.log1p(square / FREEDOM)

    accepted = 0
    for move in range(moves):
        noise = rng.standard_normal((size, dim)) @ factor.T
        if move % 2:
            proposal = z + 2.38 / math.sqrt(dim) * noise
            ratio = np.zeros(size)
        else:
            spread = np.sqrt(rng.chisquare(FREEDOM, (size, 1)) / FREEDOM)
            proposal = mean + noise / spread
            ratio = log_t(z) - log_t(proposal)
        new = value(proposal)
        ratio += power * (new - log_l) + 0.5 * np.sum(z**2 - proposal**2, axis=1)
        better = np.log(rng.random(size)) < ratio
        z = np.where(better[:, None], proposal, z)
        log_l = np.where(better, new, log_l)
        accepted += int(better.sum())
    population.kept = _kept(population.z, z)
    population.z, population.value = z, log_l
    population.acceptance = accepted / (moves * size)


def _kept(before: Array, after: Array) -> float:
    """Return the largest correlation of a coordinate with its earlier value."""
    a, b = before - before.mean(axis=0), after - after.mean(axis=0)
    scale = np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))
    return float(np.max(np.abs(np.sum(a * b, axis=0)) / scale))


def _diagnose(found: list[_Population], n: int) -> Diagnosis:
    means = np.stack([population.z.mean(axis=0) for population in found])
    within = np.mean([population.z.var(axis=0, ddof=1) for population in found], axis=0)
    between = means.var(axis=0, ddof=1)
    siblings = float(np.mean([population.siblings for population in found]))
    kept = float(np.mean([population.kept for population in found]))
    return Diagnosis(
        r_hat=math.sqrt(1 + float(np.max(between / within))),
        effective_size=n / (1 + (siblings - 1) * kept**2),
        acceptance=float(np.mean([population.acceptance for population in found])),
    )
