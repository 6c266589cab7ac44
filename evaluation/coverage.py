"""Joint calibration: where the truth lies among the draws, by a number that orders them.

    f_i = share of the draws s with g(draw_is) < g(theta_i)

For a perfect posterior f is uniform, whatever the function g, if g depends on the observation alone and not on the
truth. Four choices of g:

    tarp            distance to a reference point that is uniform in the box of all true parameters
    tarp_posterior  distance to one draw of the posterior
    coverage_joint  Mahalanobis distance to the mean of half of the draws: f is the smallest level of an ellipsoid
                    of highest density that holds the truth
    coverage_density  minus the posterior's density, where there is one: f is the smallest level of a region of
                    highest density that holds the truth

    ECP(a) = share of the test sets with f_i < a;   the metric is max_a |ECP(a) - a|

Reference: Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (2023), arXiv 2302.03026.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluation.exchange import BAND, checked
from evaluation.score import streamed

REPETITIONS = 2000  # of the simulated null
LEVELS = np.array([0.5, 0.9, 0.95])  # of intervals and ellipsoids whose coverage is told
RANDOM = "TARP: largest |coverage - level| of balls around random points"
DRAWN = "TARP: largest |coverage - level| of balls around one draw of each posterior"
DENSITY = "Largest |coverage - level| of the regions of highest posterior density"
JOINT = "Largest |coverage - level| of the joint posterior's ellipsoids of highest density"
SEED = 20230207  # of the reference points


@dataclass(frozen=True)
class Coverage:
    """Expected coverage against the level.

    Attributes:
        definition: the sentence beside the numbers.
        max: largest |ECP - level|.
        excess: mean of ECP - level; below 0 the posterior is overconfident.
        null_mean, null_band: mean and range from 5 to 95 % of `max` for a perfect sampler.
        coverage: of the regions with 50, 90 and 95 %, shape (3,).
        fractions: f, shape (B,).
    """

    definition: str
    max: float
    excess: float
    null_mean: float
    null_band: np.ndarray
    coverage: np.ndarray
    fractions: np.ndarray

    @classmethod
    def of(cls, definition: str, fractions: np.ndarray, n: int) -> Coverage:
        """Compare fractions (B,), each among n draws, with uniform ones."""
        null = _null(len(fractions), n)
        covered = (fractions[:, None] < LEVELS).mean(0)
        return cls(
            definition,
            float(deviation(fractions)),
            float(0.5 - fractions.mean()),
            float(null.mean()),
            np.quantile(null, BAND),
            covered,
            fractions,
        )


def fractions(truth: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of the numbers (B, n) below those of the truth (B,), ranks made continuous: (B,)."""
    below = (others < truth[:, None]).sum(1) + 0.5 * (others == truth[:, None]).sum(1)
    return np.asarray((below + 0.5) / (others.shape[1] + 1))


def deviation(values: np.ndarray) -> float:
    """Return the largest distance of the ECDF of values in (0, 1) from uniform."""
    ordered, n = np.sort(values), len(values)
    above = np.arange(1, n + 1) / n - ordered
    below = ordered - np.arange(n) / n
    return float(max(above.max(), below.max()))


@lru_cache(maxsize=32)
def _null(sets: int, n: int) -> np.ndarray:
    """Return the deviation of simulated perfect samplers, shape (repetitions,)."""
    rng = np.random.default_rng(SEED)
    ranks = rng.integers(n + 1, size=(REPETITIONS, sets))
    values = np.array([deviation((row + 0.5) / (n + 1)) for row in ranks])
    values.setflags(write=False)
    return values


def _around_random(
    theta: np.ndarray, draws: np.ndarray, all_theta: np.ndarray, rows: slice
) -> dict[str, np.ndarray]:
    """Return f for balls around points of the box that holds all true parameters."""
    theta, draws = checked(theta, draws)
    low, width = all_theta.min(0), _width(all_theta)
    points = np.random.default_rng(SEED).random(all_theta.shape)[rows]
    return {"fractions": around(points, (theta - low) / width, (draws - low) / width)}


@streamed(_around_random, lambda found, n, prior: Coverage.of(RANDOM, found["fractions"], n))
def tarp(theta: np.ndarray, draws: np.ndarray) -> Coverage:
    """Coverage of balls around random points, each parameter on the range of its true values.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
    """
    theta, draws = checked(theta, draws)
    found = _around_random(theta, draws, theta, slice(None))
    return Coverage.of(RANDOM, found["fractions"], draws.shape[1])


def _around_draw(
    theta: np.ndarray, draws: np.ndarray, all_theta: np.ndarray
) -> dict[str, np.ndarray]:
    """Return f for balls around the first draw of each test set, among the others."""
    theta, draws = checked(theta, draws)
    width = _width(all_theta)
    return {"fractions": around(draws[:, 0] / width, theta / width, draws[:, 1:] / width)}


@streamed(_around_draw, lambda found, n, prior: Coverage.of(DRAWN, found["fractions"], n - 1))
def tarp_posterior(theta: np.ndarray, draws: np.ndarray) -> Coverage:
    """Coverage of balls around one draw of each posterior, each parameter on the range of its true values.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D); the first is the reference point.
    """
    theta, draws = checked(theta, draws)
    found = _around_draw(theta, draws, theta)
    return Coverage.of(DRAWN, found["fractions"], draws.shape[1] - 1)


def _width(theta: np.ndarray) -> np.ndarray:
    """Return the range of each parameter (D,), 1 where it does not vary."""
    width = np.ptp(theta, axis=0)
    return np.where(width > 0, width, 1.0)


def around(points: np.ndarray, theta: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the share of the draws that are nearer to a point (B, D) than the truth is, shape (B,)."""
    nearer = np.linalg.norm(draws - points[:, None], axis=2)
    return fractions(np.linalg.norm(theta - points, axis=1), nearer)


def _ellipsoids(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return where the truth lies among every second draw, ordered by Mahalanobis distance."""
    theta, draws = checked(theta, draws)
    first, second = draws[:, ::2], draws[:, 1::2]
    if first.shape[1] <= theta.shape[1]:
        raise ValueError(f"{draws.shape[1]} draws are too few for {theta.shape[1]} parameters")
    mean = first.mean(1)
    truth, others = np.empty(len(theta)), np.empty(second.shape[:2])
    for i, values in enumerate(first):
        inverse = np.linalg.pinv(np.atleast_2d(np.cov(values, rowvar=False)))
        gap, gaps = theta[i] - mean[i], second[i] - mean[i]
        truth[i] = gap @ inverse @ gap
        others[i] = np.einsum("sd,de,se->s", gaps, inverse, gaps)
    return {"fractions": fractions(truth, others)}


@streamed(_ellipsoids, lambda found, n, prior: Coverage.of(JOINT, found["fractions"], n // 2))
def coverage_joint(theta: np.ndarray, draws: np.ndarray) -> Coverage:
    """Coverage of the joint posterior's ellipsoids of highest density.

    Half of the draws give mean and covariance, the others are ranked with the truth: the rank is exactly uniform
    for a perfect sampler, whatever the posterior's shape.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D), n >= 2 D + 2.
    """
    return Coverage.of(JOINT, _ellipsoids(theta, draws)["fractions"], np.shape(draws)[1] // 2)


def coverage_density(log_prob: np.ndarray, log_prob_draws: np.ndarray) -> Coverage:
    """Coverage of the regions of highest density, for a posterior that has one.

    Arguments:
        log_prob: log-density at the true parameters, shape (B,).
        log_prob_draws: at draws of the same posteriors, shape (B, k).
    """
    found = fractions(-np.asarray(log_prob), -np.asarray(log_prob_draws))
    return Coverage.of(DENSITY, found, np.shape(log_prob_draws)[1])


@dataclass(frozen=True)
class Intervals:
    """Coverage of the central intervals of each parameter.

    Attributes:
        definition: the sentence beside the numbers.
        max: largest |coverage - level| over levels and parameters.
        null_mean, null_band: mean and range of `max` for a perfect sampler whose parameters are independent.
        per_parameter: coverage of the 90 % interval, shape (D,).
        coverage: of the intervals with 50, 90 and 95 %, shape (3, D).
    """

    definition: str
    max: float
    null_mean: float
    null_band: np.ndarray
    per_parameter: np.ndarray
    coverage: np.ndarray


def _in_intervals(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return whether the truth lies in the central intervals, shape (b, 3, D)."""
    theta, draws = checked(theta, draws)
    low = np.quantile(draws, (1 - LEVELS) / 2, axis=1)
    high = np.quantile(draws, (1 + LEVELS) / 2, axis=1)
    return {"covered": ((low < theta) & (theta < high)).swapaxes(0, 1)}


@streamed(_in_intervals, lambda found, n, prior: _intervals(found["covered"]))
def coverage(theta: np.ndarray, draws: np.ndarray) -> Intervals:
    """Coverage of the central 50, 90 and 95 % intervals of each parameter.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
    """
    return _intervals(_in_intervals(theta, draws)["covered"])


def _intervals(inside: np.ndarray) -> Intervals:
    covered = inside.mean(0)
    null = _null_intervals(inside.shape[0], inside.shape[2])
    return Intervals(
        "Largest |coverage - level| of central 50, 90 and 95 % intervals; per parameter: of 90 %",
        float(np.abs(covered - LEVELS[:, None]).max()),
        float(null.mean()),
        np.quantile(null, BAND),
        covered[1],
        covered,
    )


@lru_cache(maxsize=32)
def _null_intervals(sets: int, parameters: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    # intervals are nested: the counts of one parameter are sums of a multinomial
    shares = np.diff(np.concatenate([[0.0], LEVELS, [1.0]]))
    counts = rng.multinomial(sets, shares, size=(REPETITIONS, parameters))[..., :-1].cumsum(-1)
    values = np.asarray(np.abs(counts / sets - LEVELS).max((1, 2)))
    values.setflags(write=False)
    return values
