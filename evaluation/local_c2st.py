"""A local test of a posterior: is it right at this observation, judged by simulations whose parameters are known?

A classifier learns to tell true parameters from posterior draws, both with the observation that they belong to.
Where the posterior is right nothing tells them apart. At the observation of interest the statistic is

    t(x_o) = mean over draws theta of (d(theta, x_o) - 1/2)^2

with d the probability that the classifier gives to "true". Its distribution for a right posterior follows by
putting one more draw of each observation in the place of its true parameters, which is exact. `local_c2st` tests
one observation, `c2st_local` is a metric: the test at every test set.

Parameters are taken relative to the draws of their own observation, z = (theta - mean) / sd, so that a width or
a centre that is wrong shows in few simulations.

Reference: L-C2ST: Local Diagnostics for Posterior Approximations in Simulation-Based Inference (Linhart, Gramfort
and Rodrigues 2023, arXiv 2306.03580).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.exchange import BAND, checked
from evaluation.score import streamed

LEAST = 50  # simulations
NULLS = 100  # repetitions with draws in place of the true parameters
DRAWS = 5  # of each observation, to tell the true parameters from
COMPONENTS = 5  # of the features that may change how theta is distributed
MOST = 1000  # test sets of `c2st_local`
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
    _check(n, m)
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

    found = statistic(true, _columns(rng, n, m)[:, 1:])
    null = np.empty(nulls)
    for k in range(nulls):
        chosen = _columns(rng, n, m)
        null[k] = statistic(z[np.arange(n), chosen[:, 0]], chosen[:, 1:])
    return LocalC2st(found, float((1 + np.sum(null >= found)) / (nulls + 1)), null, n)


@dataclass(frozen=True)
class LocalScores:
    """The test at every test set.

    Attributes:
        definition: the sentence beside the numbers.
        mean: of the statistic t over the test sets.
        null_band: range from 5 to 95 % of `mean` for a right posterior, by `NULLS` permutations.
        rejected: share of the test sets whose p-value is at most 0.05; about 0.05 for a right posterior.
        values: p-value of each test set, shape (b,).
    """

    definition: str
    mean: float
    null_band: np.ndarray
    rejected: float
    values: np.ndarray


LOCAL = "L-C2ST: mean over test sets of (classifier - 1/2)^2 at their draws, with the observation"


def _kept(theta: np.ndarray, draws: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return true parameters and some draws of b test sets, relative to all of their draws."""
    theta, draws = checked(theta, draws)
    centre, width = draws.mean(axis=1), draws.std(axis=1) + 1e-12
    z = (draws[:, : 8 * DRAWS] - centre[:, None]) / width[:, None]
    return {"true": (theta - centre) / width, "z": z, "x": x}


@streamed(_kept, lambda found, n, prior: _local(found))
def c2st_local(theta: np.ndarray, draws: np.ndarray, x: np.ndarray) -> LocalScores:
    """L-C2ST of every test set: a classifier of the one half of them is applied to the other.

    Arguments:
        theta: true parameters, shape (B, D), B at least 100; of more than 1000, the first 1000 are used.
        draws: posterior draws, shape (B, n, D), n at least 20.
        x: the observations, shape (B, F).
    """
    return _local(_kept(theta, draws, x))


def _local(found: Mapping[str, np.ndarray]) -> LocalScores:
    true, z, x = (found[name][:MOST] for name in ("true", "z", "x"))
    n, m = z.shape[:2]
    _check(n // 2, m)
    rng, rows = np.random.default_rng(0), np.arange(n)
    context, _ = _components(x, x[0])

    def statistics(candidates: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return t of every test set, by the classifier of the half that it does not belong to."""
        against, values = np.take_along_axis(z, columns[..., None], axis=1), np.empty(n)
        for fit, score in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            model = _classifier(candidates[fit], against[fit], context[fit])
            at = np.repeat(np.clip(context[score], -WIDEST, WIDEST), m, axis=0)
            share = model.predict_proba(_inputs(z[score].reshape(-1, z.shape[2]), at))[:, 1]
            values[score] = np.square(share - 0.5).reshape(len(score), m).mean(1)
        return values

    own = statistics(true, _columns(rng, n, m)[:, 1:])
    null = np.empty((NULLS, n))
    for k in range(NULLS):
        chosen = _columns(rng, n, m)
        null[k] = statistics(z[rows, chosen[:, 0]], chosen[:, 1:])
    p_values = (1 + (null >= own).sum(0)) / (NULLS + 1)
    band = np.quantile(null.mean(1), BAND)
    rejected = float((p_values <= 0.05).mean())
    return LocalScores(LOCAL, float(own.mean()), band, rejected, p_values)


def _check(simulations: int, draws: int) -> None:
    if simulations < LEAST or draws < 4 * DRAWS:
        raise ValueError(
            f"{simulations} simulations with {draws} draws each: a local test needs at least {LEAST}"
            f" with {4 * DRAWS}"
        )


def _columns(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Return different draws of each observation: the first for a candidate, the others against it."""
    return np.argpartition(rng.random((n, m)), DRAWS + 1, axis=1)[:, : DRAWS + 1]


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
