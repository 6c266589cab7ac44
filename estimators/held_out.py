"""Recalibration of a posterior by rows that were held out of its training, see `estimators.recalibration`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from estimators.posterior import Posterior
from estimators.recalibration import DRAWS, Recalibration, marginal, placed

TOGETHER = 256  # rows that are drawn for at a time


def recalibrate(
    posterior: Posterior,
    theta: ArrayLike,
    x: Mapping[str, ArrayLike],
    *,
    sampling_steps: Sequence[int] | None = None,
    rows: str = "given by hand",
    weights: str = "",
    seed: int = 0,
) -> Recalibration:
    """Recalibrate a posterior by rows that it was not trained on: `sample(..., calibrated=True)` uses it.

    Arguments:
        posterior: whose draws are to be moved; it keeps the result as `recalibration`.
        theta: true parameters, shape (m, D), natural units.
        x: their simulations, each of shape (m, ...).
        sampling_steps: numbers of network passes for which it is to hold; None: the default alone.
        rows: which rows these are, in words.
        weights: SHA-256 of the posterior's weights, for `save`.
        seed: of the draws.

    Raises:
        ValueError: fewer than two rows, or shapes that do not fit.
    """
    truth = torch.as_tensor(np.asarray(theta), dtype=torch.float32)
    if truth.ndim != 2 or len(truth) < 2 or truth.shape[1] != len(posterior.names):
        raise ValueError(
            f"theta has shape {tuple(truth.shape)}; valid is (m, {len(posterior.names)}) with m >= 2"
        )
    scaled, scores = marginal(posterior.module.transform, posterior.estimator).scaled, {}
    for steps in sampling_steps or [posterior.sampling_steps or 0]:
        parts = []
        for first in range(0, len(truth), TOGETHER):
            some = slice(first, first + TOGETHER)
            given = {name: np.asarray(values)[some] for name, values in x.items()}
            draws = posterior.sample(given, DRAWS, sampling_steps=steps or None, seed=seed + first)
            parts.append(placed(scaled(truth[some].to(draws.device)), scaled(draws)))
        scores[steps] = torch.cat(parts).sort(dim=0).values.cpu().numpy()
    posterior.recalibration = Recalibration(scores, rows, weights)
    return posterior.recalibration
