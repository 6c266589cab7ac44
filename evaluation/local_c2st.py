"""A local test of a posterior: is it right at this observation, judged by simulations whose parameters are known?

A classifier learns to tell true parameters from posterior draws, both with the observation that they belong to.
Where the posterior is right nothing tells them apart. At the observation of interest the statistic is

    t(x_o) = mean over draws theta of (d(theta, x_o) - 1/2)^2

with d the probability that the classifier gives to "true". Its distribution for a right posterior follows by
putting one more draw of each observation in the place of its true parameters, which is exact.

Parameters are taken relative to the draws of their own observation, z = (theta - mean) / sd, so that a width or
a centre that is wrong shows in few simulations.

Reference: L-C2ST: Local Diagnostics for Posterior Approximations in Simulation-Based Inference (Linhart, Gramfort
and Rodrigues 2023, arXiv 2306.03580).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST = 50  # simulations
NULLS = 100  # repetitions with draws in place of the true parameters
DRAWS = 5  # of each observation, to tell the true parameters from
COMPONENTS = 5  # of the features that may change how theta is distributed
WIDEST = 6.0  # z and features beyond are taken as this


@dataclass(frozen=True)
class LocalC2st:
    """The result of the test.

    Attributes:
        statistic: t(x_o), 0 where nothing tells true parameters from draws.
        p_value: share of right posteriors with a statistic at least as large.
        null: statistics of right posteriors, shape (nulls,).
        simulations: how many were used.
    """

    statistic: float
    p_value: float
    null: np.ndarray
    simulations: int


def local_c2st(
    theta: np.ndarray,
    features: np.ndarray,
    draws: np.ndarray,
    features_observed: np.ndarray,
    draws_observed: np.ndarray,
    *,
    nulls: int = NULLS,
    seed: int = 0,
) -> LocalC2st:
    """Test a posterior at one observation.

    Arguments:
        theta: true parameters of simulations that did not train the posterior, shape (n, D).
        features: their outputs, or a summary of them, shape (n, F).
        draws: posterior draws for them, shape (n, m, D), m at least 20.
        features_observed: of the observation, shape (F,).
        draws_observed: posterior draws for the observation, shape (k, D).
        nulls: repetitions for the p-value, which is at least 1 / (nulls + 1).
        seed: of the choice of draws.

    Raises:
        ValueError: fewer than 50 simulations, or fewer than 20 draws of each.
    """
    n, m = draws.shape[:2]
    if n < LEAST or m < 4 * DRAWS:
        raise ValueError(
            f"{n} simulations with {m} draws each: a local test needs at least {LEAST} with {4 * DRAWS}"
        )
    rng = np.random.default_rng(seed)
    centre, width = draws.mean(axis=1), draws.std(axis=1) + 1e-12
    true = (theta - centre) / width
    z = (draws - centre[:, None]) / width[:, None]
    at = (draws_observed - draws_observed.mean(0)) / (draws_observed.std(0) + 1e-12)
    context, context_at = _components(features, features_observed)
    inputs_at = _inputs(at, np.broadcast_to(context_at, (len(at), len(context_at))))

    def statistic(candidates: np.ndarray, columns: np.ndarray) -> float:
        against = np.take_along_axis(z, columns[..., None], axis=1)
        probability = _classifier(candidates, against, context).predict_proba(inputs_at)[:, 1]
        return float(np.mean((probability - 0.5) ** 2))

    def columns() -> np.ndarray:
        """Return different draws of each observation: the first for a candidate, the others against it."""
        return np.argpartition(rng.random((n, m)), DRAWS + 1, axis=1)[:, : DRAWS + 1]

    found = statistic(true, columns()[:, 1:])
    null = np.empty(nulls)
    for k in range(nulls):
        chosen = columns()
        null[k] = statistic(z[np.arange(n), chosen[:, 0]], chosen[:, 1:])
    return LocalC2st(found, float((1 + np.sum(null >= found)) / (nulls + 1)), null, n)


def _components(
    features: np.ndarray, features_observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of standardised features, of variance one: (n, C) and (C,)."""
    mean, scale = features.mean(0), features.std(0) + 1e-12
    rows = (features - mean) / scale
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    count = min(COMPONENTS, int(np.sum(values > 1e-6 * max(values[0], 1e-12))))
    basis = vectors[:count].T / (values[:count] / np.sqrt(len(rows)) + 1e-12)
    clipped = np.clip(np.stack([features_observed - mean]) / scale @ basis, -WIDEST, WIDEST)
    return rows @ basis, clipped[0]


def _inputs(z: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Return what the classifier sees: z to the second order, and how both change with the context."""
    z = np.clip(z, -WIDEST, WIDEST)
    pairs = np.triu_indices(z.shape[1])
    second = z[:, pairs[0]] * z[:, pairs[1]]
    squares = z**2 - 1
    with_context = [
        (part[:, :, None] * context[:, None, :]).reshape(len(z), -1) for part in (z, squares)
    ]
    return np.concatenate([z, second, *(0.5 * part for part in with_context)], axis=1)


def _classifier(candidates: np.ndarray, against: np.ndarray, context: np.ndarray) -> Any:
    """Fit a logistic regression with a quadratic penalty: candidates (n, D) against draws (n, k, D)."""
    from sklearn.linear_model import LogisticRegression

    n, k, size = against.shape
    z = np.concatenate([candidates, against.reshape(n * k, size)])
    inputs = _inputs(z, np.concatenate([context, np.repeat(context, k, axis=0)]))
    label = np.repeat([1, 0], [n, n * k])
    weight = np.repeat([1.0, 1.0 / k], [n, n * k])
    return LogisticRegression(C=0.1, max_iter=60, tol=1e-3).fit(inputs, label, sample_weight=weight)
