"""Logarithm of the posterior's density at the true parameters, where the estimator has one.

    mean_i log p(theta_i | x_i), in natural units; higher is better

Its band is that of the posterior's own draws in the place of the truth: below it, the posterior is too narrow or
in the wrong place, above it too wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.exchange import BAND, REPETITIONS
from evaluation.score import Scores


@dataclass(frozen=True)
class LogProb:
    """Mean log-density of the truth.

    Attributes:
        definition: the sentence beside the numbers.
        mean, sem: over the test sets.
        null_band: range from 5 to 95 % of the mean, were the draws those of the true posterior.
        values: of each test set, shape (B,).
    """

    definition: str
    mean: float
    sem: float
    null_band: np.ndarray
    values: np.ndarray


def log_prob_truth(log_prob: np.ndarray, log_prob_draws: np.ndarray) -> LogProb:
    """Log-density of the true parameters.

    Arguments:
        log_prob: at the true parameters, shape (B,).
        log_prob_draws: at draws of the same posteriors, shape (B, k).
    """
    rng, rows = np.random.default_rng(20231123), np.arange(len(log_prob))
    chosen = rng.integers(log_prob_draws.shape[1], size=(REPETITIONS, len(log_prob)))
    null = log_prob_draws[rows, chosen].mean(1)
    over = Scores.of("", np.asarray(log_prob, np.float64))
    words = "Log-density of the true parameters, natural units, mean over test sets"
    return LogProb(words, over.mean, over.sem, np.quantile(null, BAND), over.values)
