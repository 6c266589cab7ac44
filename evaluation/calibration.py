"""Calibration over many test sets: ranks of the true parameters, coverage of central intervals.

    r_id = #{s : draw_isd < theta_id} in 0..n;   a calibrated sampler has uniform ranks

    SBC: "Validating Bayesian Inference Algorithms with Simulation-Based Calibration", 2018
    (arXiv:1804.06788) band: "Graphical Test for Discrete Uniformity and its Applications in
    Goodness-of-Fit Evaluation", 2021 (arXiv:2103.10522)

A finite number of test sets makes even a perfect sampler look wrong by chance. The band and the
null values say by how much; both are simulated with a fixed seed, so that equal sizes give equal
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binom

LEVELS = np.linspace(0.005, 0.995, 20)  # of the central intervals
COVERAGE = 0.95  # of the simultaneous band
REPETITIONS = 2000  # of the simulated nulls
POINTS = 100  # where the ECDF is compared with uniform


def ranks(draws: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return how many draws lie below the true parameter, ties counting one half.

    Args:
        draws: shape (B, n, D). theta: shape (B, D).

    Returns:
        Shape (B, D), values in [0, n].

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    draws, theta = np.asarray(draws), np.asarray(theta)
    if theta.ndim != 2 or draws.ndim != 3 or draws.shape[::2] != theta.shape:
        raise ValueError(
            f"theta {theta.shape} and draws {draws.shape}; valid: (B, D) and (B, n, D)"
        )
    for name, array in (("theta", theta), ("draws", draws)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} hold NaN or Inf: ranks would count them as below or above")
    truth = theta[:, None]
    return (draws < truth).sum(1) + 0.5 * (draws == truth).sum(1)


@dataclass(frozen=True)
class Band:
    """Where the ECDF difference of N uniform ranks stays, at all points together, in 95 % of cases.

    Attributes:
        points: z in (0, 1), shape (K,). low, high: bounds of ECDF(z) - z, shape (K,).
    """

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray


@lru_cache(maxsize=32)
def band(sets: int, coverage: float = COVERAGE, repetitions: int = REPETITIONS) -> Band:
    """Simulate the simultaneous band for `sets` test sets.

    At each z the count of ranks below z is Binomial(N, z). The pointwise level gamma is chosen
    so that a share `coverage` of simulated uniform samples stays inside the pointwise intervals
    at every z.
    """
    rng = np.random.default_rng(20180804)
    z = np.arange(1, POINTS) / POINTS
    gammas = np.empty(repetitions)
    for i in range(repetitions):
        count = np.searchsorted(np.sort(rng.random(sets)), z, side="right")
        tail = np.minimum(binom.cdf(count, sets, z), binom.sf(count - 1, sets, z))
        gammas[i] = 2 * tail.min()
    gamma = np.quantile(gammas, 1 - coverage)
    low, high = binom.ppf(gamma / 2, sets, z), binom.isf(gamma / 2, sets, z)
    return Band(z, low / sets - z, high / sets - z)


def ecdf_difference(fractions: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ECDF(z) - z of fractional ranks.

    Args:
        fractions: shape (B, D). points: z, shape (K,).

    Returns:
        Shape (K, D).
    """
    below = fractions[None] <= points[:, None, None]
    return np.asarray(below.mean(1) - points[:, None])


@dataclass(frozen=True)
class Sbc:
    """Rank statistics.

    Attributes:
        fractions: ranks / n, shape (B, D).
        max: largest |ECDF - uniform| over points and parameters. per_parameter: the same
        for each, shape (D,). outside: largest share of the points at which a parameter
        leaves the band, over the parameters. inside: whether each parameter stays in the
        simultaneous band, shape (D,).
    """

    definition: str
    max: float
    per_parameter: np.ndarray
    inside: np.ndarray
    outside: float
    fractions: np.ndarray


def sbc(theta: np.ndarray, draws: np.ndarray) -> Sbc:
    """Simulation-based calibration: ECDF difference of every parameter's ranks against the band."""
    n = np.shape(draws)[1]
    # uniform discrete ranks r in 0..n as fractions in (0, 1)
    fractions = (ranks(draws, theta) + 0.5) / (n + 1)
    limits = band(len(fractions))
    difference = ecdf_difference(fractions, limits.points)
    out = (difference < limits.low[:, None] - 1e-12) | (difference > limits.high[:, None] + 1e-12)
    largest = np.abs(difference).max(0)
    return Sbc(
        f"Largest ECDF difference of the ranks; simultaneous {COVERAGE:.0%} band per parameter",
        float(largest.max()),
        largest,
        np.logical_not(out.any(0)),
        float(out.mean(0).max()),
        fractions,
    )


@dataclass(frozen=True)
class Ece:
    """Coverage error of central intervals.

    Attributes:
        max, average: over the parameters. per_parameter: shape (D,).
        null_mean, null_band: mean and 5 to 95 % range of `max` for a perfectly calibrated
        sampler on as many test sets and parameters.
    """

    definition: str
    max: float
    average: float
    per_parameter: np.ndarray
    null_mean: float
    null_band: np.ndarray


def ece(theta: np.ndarray, draws: np.ndarray) -> Ece:
    """Calibration error: |coverage of the central alpha-interval - alpha|, median over alpha.

    The interval is that between the (1 - alpha)/2 and the (1 + alpha)/2 quantile of the draws,
    for alpha from 0.005 to 0.995.
    """
    theta, draws = np.asarray(theta), np.asarray(draws)
    ranks(draws, theta)  # the same conditions
    low = np.quantile(draws, (1 - LEVELS) / 2, axis=1)
    high = np.quantile(draws, (1 + LEVELS) / 2, axis=1)
    covered = ((low < theta) & (theta < high)).mean(1)
    per_parameter = np.median(np.abs(covered - LEVELS[:, None]), axis=0)
    null = null_max_ece(*theta.shape)
    return Ece(
        "MaxECE: |coverage - level|, median over 20 central intervals, maximum over parameters",
        float(per_parameter.max()),
        float(per_parameter.mean()),
        per_parameter,
        float(null.mean()),
        np.quantile(null, [0.05, 0.95]),
    )


@lru_cache(maxsize=32)
def null_max_ece(sets: int, parameters: int, repetitions: int = REPETITIONS) -> np.ndarray:
    """Return MaxECE of simulated perfectly calibrated samplers, shape (repetitions,).

    Their parameters are independent.
    """
    rng = np.random.default_rng(20231210)
    values = np.empty(repetitions)
    for i in range(repetitions):
        values[i] = max_ece(rng.random((sets, parameters)))
    values.setflags(write=False)
    return values


def max_ece(fractions: np.ndarray) -> float:
    """Return MaxECE of fractional ranks (sets, D): the share of draws below the truth."""
    # |2u - 1| < alpha says that a fractional rank u lies in the central interval
    width = np.abs(2 * fractions - 1)
    edges = np.concatenate([[0.0], LEVELS])
    inside = [np.histogram(column, edges)[0].cumsum() / len(width) for column in width.T]
    return float(np.median(np.abs(np.array(inside) - LEVELS), axis=1).max())
