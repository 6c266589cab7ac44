"""The times of a draw's few network passes, chosen on simulations that were not trained on.

Each pass after the first adds noise of level t_k and removes it again; which levels are best depends
on how sharp the posteriors are. The score of draws is the energy score, in standardised parameters u,

    S = E |u_s - u| - E |u_s - u_r| / 2,    u the true parameter, u_s and u_r independent draws

which is smallest in the mean for the true posterior. Equal random numbers serve all candidates.

Gneiting, Raftery: Strictly Proper Scoring Rules, Prediction, and Estimation (2007), Journal of the
American Statistical Association 102.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from estimators.checks import within
from estimators.consistency import ConsistencyEstimator
from estimators.posterior import Posterior

FACTORS = (0.25, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0, 4.0)  # tried on each time in turn
ROUNDS = 3


def best_times(
    posterior: Posterior,
    theta: ArrayLike,
    x: Mapping[str, ArrayLike],
    passes: int,
    *,
    draws: int = 64,
    seed: int = 0,
) -> list[float]:
    """Return decreasing times for `posterior.sample(..., sampling_steps=times)`.

    Arguments:
        posterior: one that draws by a consistency function.
        theta: true parameters, shape (B, D), natural units.
        x: their simulations, each of shape (B, ...), not trained on.
        passes: how many times; the first stays the longest one.
        draws: for each simulation.
        seed: of the draws.

    Raises:
        TypeError: the posterior has no such times.
        ValueError: passes < 1, or shapes that do not fit.
    """
    module = posterior.module
    if not isinstance(module, ConsistencyEstimator):
        raise TypeError(f"estimator {posterior.estimator!r} has no times of passes to choose")
    within("passes", passes, 1, integer=True)
    within("draws", draws, 2, integer=True)
    times = module.times(passes)
    best = energy_score(posterior, theta, x, times, draws, seed)
    for _ in range(ROUNDS):
        before = best
        for k in range(1, passes):
            for time in [times[k] * factor for factor in FACTORS]:
                trial = [*times[:k], time, *times[k + 1 :]]
                lower = trial[k + 1] if k + 1 < passes else module.epsilon
                if not lower < time < trial[k - 1]:
                    continue
                score = energy_score(posterior, theta, x, trial, draws, seed)
                if score < best:
                    best, times = score, trial
        if best == before:
            break
    return times


def energy_score(
    posterior: Posterior,
    theta: ArrayLike,
    x: Mapping[str, ArrayLike],
    times: Sequence[float],
    draws: int,
    seed: int,
) -> float:
    """Return the mean energy score of draws by passes at these times."""
    module = posterior.module
    sampled = posterior.sample(x, draws, sampling_steps=times, seed=seed)
    truth = torch.as_tensor(np.asarray(theta), dtype=torch.float32, device=sampled.device)
    if truth.shape != (len(sampled), sampled.shape[2]):
        raise ValueError(
            f"theta has shape {tuple(truth.shape)}; valid is ({len(sampled)}, {sampled.shape[2]})"
        )
    with torch.no_grad():
        u, true = module.transform(sampled), module.transform(truth)
        distance = torch.linalg.vector_norm(u - true.unsqueeze(1), dim=-1).mean()
        spread = torch.cdist(u, u).sum(dim=(1, 2)).mean() / (draws * (draws - 1))
    score = float(distance - spread / 2)
    return score if math.isfinite(score) else math.inf
