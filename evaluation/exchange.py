"""What a metric is for a perfect sampler: one of its draws takes the place of the truth.

If draws come from the posterior, the true parameters of a test set are one more draw: exchanged for any of them,
a metric keeps its distribution. So the metric with draws in the place of the truth, several times, gives its null
band, for the same number of test sets and of draws, without any reference posterior.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluation.score import check_finite, check_shapes

REPETITIONS = 200
BAND = (0.05, 0.95)  # quantiles


def exchanged(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    draws: np.ndarray,
    repetitions: int = REPETITIONS,
) -> np.ndarray:
    """Return the scores of test sets with one of their draws in the place of the truth, shape (b, repetitions).

    Arguments:
        score: function of (theta (b, D), draws (b, n, D)) that returns a value for each test set, (b,).
        draws: posterior draws, shape (b, n, D).
        repetitions: how often truths are chosen among the draws.
    """
    rng = np.random.default_rng(20231123)
    sets, n = draws.shape[:2]
    rows = np.arange(sets)
    chosen = (draws[rows, rng.integers(n, size=sets)] for _ in range(repetitions))
    return np.stack([score(truth, draws) for truth in chosen], axis=1)


def null_band(scores: np.ndarray) -> np.ndarray:
    """Return the range of the mean over test sets of `exchanged` scores (B, R), from 5 to 95 %, shape (2,)."""
    return np.asarray(np.quantile(scores.mean(0), BAND))


def checked(theta: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, after checking that they fit together and are finite."""
    theta, draws = np.asarray(theta, np.float64), np.asarray(draws, np.float64)
    check_shapes(theta, draws)
    check_finite(theta, draws)
    return theta, draws
