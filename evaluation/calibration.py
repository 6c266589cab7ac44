"""Calibration over many test sets: ranks of the true parameters, coverage of central intervals.

    r_id = #{s : draw_isd < theta_id} in 0..n;   a calibrated sampler has uniform ranks

With a finite number of test sets even a perfect sampler deviates from uniform ranks by sampling error. The
band and the null values say by how much. Both are simulated with a fixed seed, so that equal sizes give
equal numbers.

Reference: Validating Bayesian Inference Algorithms with Simulation-Based Calibration (2018), arXiv
1804.06788. Of the band: Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit
Evaluation (2021), arXiv 2103.10522.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from evaluation.score import check_finite, check_shapes, streamed

LEVELS = np.linspace(0.005, 0.995, 20)  # of the central intervals
COVERAGE = 0.95  # of the simultaneous band
REPETITIONS = 2000  # of the simulated nulls
POINTS = 100  # where the ECDF is compared with uniform


def ranks(draws: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return how many draws lie below the true parameter; of equal ones a number at random.

    Ties are broken by a seed that follows from the numbers, so that ranks of whole numbers are uniform too where
    the posterior is right.

    Arguments:
        draws: posterior draws, shape (B, n, D).
        theta: true parameters, shape (B, D).

    Returns:
        Shape (B, D), whole numbers in [0, n].

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    draws, theta = np.asarray(draws), np.asarray(theta)
    check_shapes(theta, draws)
    check_finite(theta, draws, ": ranks would count them as below or above")
    truth = theta[:, None]
    below, equal = (draws < truth).sum(1), (draws == truth).sum(1)
    if not equal.any():
        return below.astype(float)
    rng = np.random.default_rng(zlib.crc32(theta.tobytes() + below.tobytes()))
    return below + rng.integers(0, equal + 1)


@dataclass(frozen=True)
class Band:
    """Where the ECDF difference of N uniform ranks stays, at all points together, in 95 % of cases.

    Attributes:
        points: z in (0, 1), shape (K,).
        low, high: bounds of ECDF(z) - z, shape (K,).
    """

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray


@lru_cache(maxsize=32)
def band(sets: int, coverage: float = COVERAGE, repetitions: int = REPETITIONS) -> Band:
    """Simulate the simultaneous band for N test sets.

    At each z the number of ranks below z is Binomial(N, z). The pointwise level gamma is chosen so that a
    share `coverage` of simulated uniform samples stays inside the pointwise intervals at every z.

    Arguments:
        sets: N.
        coverage: probability of the whole curve to lie in the band.
        repetitions: number of simulated samples.
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

    Arguments:
        fractions: ranks / n, shape (B, D).
        points: z, shape (K,).

    Returns:
        Shape (K, D).
    """
    below = fractions[None] <= points[:, None, None]
    return np.asarray(below.mean(1) - points[:, None])


@dataclass(frozen=True)
class Sbc:
    """Rank statistics.

    Attributes:
        definition: the sentence beside the numbers.
        max: largest |ECDF - uniform| over points and parameters.
        per_parameter: the same for each parameter, shape (D,).
        inside: whether each parameter stays in the simultaneous band, shape (D,).
        outside: share of the points at which a parameter leaves the band, the largest over the parameters.
        fractions: ranks / n, shape (B, D).
    """

    definition: str
    max: float
    per_parameter: np.ndarray
    inside: np.ndarray
    outside: float
    fractions: np.ndarray


def _fractions(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return uniform discrete ranks r in 0..n as fractions in (0, 1)."""
    return {"fractions": (ranks(draws, theta) + 0.5) / (np.shape(draws)[1] + 1)}


@streamed(_fractions, lambda found, n, prior: _sbc(found["fractions"]))
def sbc(theta: np.ndarray, draws: np.ndarray) -> Sbc:
    """Simulation-based calibration: ECDF difference of every parameter's ranks against the band.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
    """
    return _sbc(_fractions(theta, draws)["fractions"])


def _sbc(fractions: np.ndarray) -> Sbc:
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
        definition: the sentence beside the numbers.
        max, average: largest and mean error over the parameters.
        per_parameter: error of each parameter, shape (D,).
        excess: mean over alpha of coverage - alpha, shape (D,); below 0 the intervals are too narrow.
        null_mean, null_band: mean and range from 5 to 95 % of `max` for a perfectly calibrated sampler on
            as many test sets and parameters.
    """

    definition: str
    max: float
    average: float
    per_parameter: np.ndarray
    excess: np.ndarray
    null_mean: float
    null_band: np.ndarray


def _covered(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return whether the truth lies in the central intervals, shape (b, levels, D)."""
    theta, draws = np.asarray(theta), np.asarray(draws)
    ranks(draws, theta)  # the same conditions
    low = np.quantile(draws, (1 - LEVELS) / 2, axis=1)
    high = np.quantile(draws, (1 + LEVELS) / 2, axis=1)
    return {"covered": ((low < theta) & (theta < high)).swapaxes(0, 1)}


@streamed(_covered, lambda found, n, prior: _ece(found["covered"]))
def ece(theta: np.ndarray, draws: np.ndarray) -> Ece:
    """Calibration error: |coverage of the central alpha-interval - alpha|, median over alpha.

    The interval lies between the (1 - alpha)/2 and the (1 + alpha)/2 quantile of the draws; alpha runs from
    0.005 to 0.995.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
    """
    return _ece(_covered(theta, draws)["covered"])


def _ece(inside: np.ndarray) -> Ece:
    excess = inside.mean(0) - LEVELS[:, None]
    per_parameter = np.median(np.abs(excess), axis=0)
    null = null_max_ece(inside.shape[0], inside.shape[2])
    return Ece(
        "MaxECE: |coverage - level|, median over 20 central intervals, maximum over parameters",
        float(per_parameter.max()),
        float(per_parameter.mean()),
        per_parameter,
        excess.mean(0),
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
