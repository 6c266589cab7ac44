"""Is an observation like what the model makes? Its distance among simulations, with a p-value, and what is odd.

Three distances are measured, each on simulations that did not fit them:

    outputs    Mahalanobis distance of all outputs, with a shrunk covariance
    element    the largest |r_j|,  r_j = (Lambda (x - mu))_j / sqrt(Lambda_jj),  Lambda the inverse covariance:
               how far output j is from what the other outputs predict
    summary    mean distance to the ten nearest training simulations, in the summary that the posterior uses

Each p-value is the share of held-out simulations that are at least as far, which is exact where the observation is
one of them; the smallest of the three counts, times three.

References: Ledoit and Wolf 2004 for the covariance; Detecting Model Misspecification in Amortized Bayesian
Inference (Schmitt, Buerkner, Koethe and Radev 2021, arXiv 2112.08866) for the distance in the summary; Testing for
Outliers with Conformal p-values (Bates et al. 2021, arXiv 2104.08279).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.gaussian import MOST_ROWS, FittedGaussian

LEAST = 60  # held-out simulations: with fewer the smallest p-value is above 0.05
NEIGHBORS = 10


@dataclass(frozen=True)
class Oddness:
    """How far an observation lies from simulations.

    Attributes:
        p_value: of all distances together.
        p_values: by name of the distance.
        residual: r_j of every element, in standard deviations, shape (E,).
        simulations: held-out simulations that it was compared with.
    """

    p_value: float
    p_values: dict[str, float]
    residual: np.ndarray
    simulations: int


def oddness(
    train: np.ndarray,
    held_out: np.ndarray,
    observed: np.ndarray,
    summary: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Oddness:
    """Compare an observation with simulations.

    Arguments:
        train: outputs of simulations, shape (n, E).
        held_out: of others, shape (m, E).
        observed: of the observation, shape (E,).
        summary: summaries of the three, shapes (n, F), (m, F) and (F,).

    Raises:
        ValueError: fewer than 60 held-out simulations.
    """
    if len(held_out) < LEAST:
        raise ValueError(f"{len(held_out)} held-out simulations: the check needs at least {LEAST}")
    scores = {}
    model = FittedGaussian(train)
    found, residual = model.distances(held_out), model.residuals(held_out)
    at, residual_at = model.distances(observed[None]), model.residuals(observed[None])[0]
    scores["outputs"] = found, at[0]
    scores["element"] = np.abs(residual).max(axis=1), np.abs(residual_at).max()
    if summary is not None:
        near, near_at = _nearest(*summary)
        scores["summary"] = near, near_at
    values = {
        name: float((1 + np.sum(others >= one)) / (1 + len(others)))
        for name, (others, one) in scores.items()
    }
    smallest = min(1.0, len(values) * min(values.values()))
    return Oddness(smallest, values, residual_at, len(held_out))


def _nearest(
    train: np.ndarray, held_out: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return mean distances to the nearest training summaries: of held-out ones (m,) and of the observation."""
    from scipy.spatial import cKDTree

    mean, scale = train.mean(0), train.std(0) + 1e-12
    tree = cKDTree((train[:MOST_ROWS] - mean) / scale)
    count = min(NEIGHBORS, len(train))
    points = np.concatenate([held_out, observed[None]])
    distance = tree.query((points - mean) / scale, k=count)[0].reshape(len(points), -1).mean(axis=1)
    return distance[:-1], float(distance[-1])
