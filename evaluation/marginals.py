"""A posterior in numbers: location, spread, highest-density intervals, and how much was learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = (0.5, 0.9)
MOST_DRAWS = 2000  # of which the density is estimated


@dataclass(frozen=True)
class Marginals:
    """The marginal distributions of D parameters.

    Attributes:
        mean, sd, median, mode: shape (D,); the mode is that of the joint density.
        hpd: shortest intervals that hold 50 and 90 % of the draws, shape (2, D, 2).
        contraction: 1 - var(posterior) / var(prior): 0 where nothing was learned, 1 where all, shape (D,).
        correlation: of the draws, shape (D, D).
    """

    mean: np.ndarray
    sd: np.ndarray
    median: np.ndarray
    mode: np.ndarray
    hpd: np.ndarray
    contraction: np.ndarray
    correlation: np.ndarray


def marginals(draws: np.ndarray, prior: np.ndarray) -> Marginals:
    """Summarise draws.

    Arguments:
        draws: posterior draws, shape (n, D).
        prior: prior draws, shape (m, D).
    """
    sd = draws.std(axis=0)
    centred = (draws - draws.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    return Marginals(
        mean=draws.mean(axis=0),
        sd=sd,
        median=np.median(draws, axis=0),
        mode=mode(draws),
        hpd=np.stack([shortest(draws, level) for level in LEVELS]),
        contraction=1 - draws.var(axis=0) / np.maximum(prior.var(axis=0), 1e-300),
        correlation=centred.T @ centred / len(draws),
    )


def shortest(draws: np.ndarray, level: float) -> np.ndarray:
    """Return the shortest interval of each column that holds a share of the draws (n, D), shape (D, 2)."""
    ordered = np.sort(draws, axis=0)
    count = max(1, int(np.ceil(level * len(ordered))))
    width = ordered[count - 1 :] - ordered[: len(ordered) - count + 1]
    first = width.argmin(axis=0)
    columns = np.arange(draws.shape[1])
    return np.stack([ordered[first, columns], ordered[first + count - 1, columns]], axis=1)


def mode(draws: np.ndarray) -> np.ndarray:
    """Return the draw (D,) with the highest density, by a Gaussian kernel estimate of Scott's width."""
    from scipy.stats import gaussian_kde

    rows = draws[:MOST_DRAWS]
    varying = rows.std(axis=0) > 0
    if not varying.any():
        return np.asarray(rows[0])
    try:
        density = gaussian_kde(rows[:, varying].T)(rows[:, varying].T)
    except np.linalg.LinAlgError:  # parameters that follow from each other
        centre = np.median(rows, axis=0)
        return np.asarray(rows[np.abs(rows - centre).sum(axis=1).argmin()])
    return np.asarray(rows[density.argmax()])
