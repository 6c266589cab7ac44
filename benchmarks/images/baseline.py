"""Posterior means by ridge regression: what a linear method reaches.

    mean(x) = m + W (x - x_0),   W = Y^T X (X^T X + l n I)^-1

with centred pixels X (n, D) and Y (n, D); l is the one of a few with the smallest error on a tenth of the
images. Draws of a posterior with this mean and its own spread would have sqrt(2) times the RMSE.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.images.data import Images

PENALTIES = tuple(10.0**k for k in range(-7, 0))


def ridge(train: Images, test: Images) -> dict[str, float]:
    """Return the RMSE per image of the linear posterior mean, and what it implies for draws.

    Arguments:
        train, test: true images (n, D) and what the camera saw of them.
    """
    fitted, held = (
        part.rows(len(train.theta) // 10, first) for part, first in ((train, False), (train, True))
    )
    errors = {penalty: _rmse(fitted, held, penalty) for penalty in PENALTIES}
    best = min(errors, key=errors.__getitem__)
    mean = _rmse(train, test, best)
    return {"rmse_of_mean": mean, "rmse_of_draws": math.sqrt(2) * mean, "penalty": best}


def _rmse(train: Images, test: Images, penalty: float) -> float:
    x, y = train.x.mean(0), train.theta.mean(0)
    centred = train.x - x
    gram = centred.T @ centred + penalty * len(centred) * np.eye(centred.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (train.theta - y))
    error = y + (test.x - x) @ weights - test.theta
    return float(np.sqrt(np.square(error).mean(1)).mean())
