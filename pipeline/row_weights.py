"""Weights of training rows: what is known of the prior takes away part of the chance of a finite budget.

Which parameters happened to be drawn decides how an estimator shares its mass between distant modes, and how
wide it is. The prior is known, so parameters can be weighted until functions of them have the means that the
prior gives them.

Deville, Saerndal: Calibration Estimators in Survey Sampling (1992).
"""

from __future__ import annotations

from itertools import combinations_with_replacement, count
from math import comb

import numpy as np

from pipeline.errors import UsageError
from simulators import Prior

SHARE = 1 / 16  # functions for each row: the effective number of rows falls by about as much
MOST = 64  # functions
ROWS = 8_192  # at a time


def prior_weights(u: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Return weights of rows, of mean 1, with which low frequencies are spread as under the prior.

        w_i = a + sum_k b_k phi_k(u_i),   mean w = 1,   mean w phi_k = 0,   phi_k(u) = prod_j cos(pi k_j u_j)

    with all frequencies k of the largest sum for which there are few beside the rows: of all such weights
    those nearest to 1 in the mean square. Those below zero are zero.

    Arguments:
        u: the rows' points of the unit cube, of which the prior's quantiles are their parameters, (n, D).
        share: functions for each row, at most.

    Returns:
        w, shape (n,).
    """
    k = frequencies(u.shape[1], min(MOST, int(share * len(u))))
    parts = [u[start : start + ROWS] for start in range(0, len(u), ROWS)]
    products = sum(phi @ phi.T for phi in (_cosines(part, k) for part in parts))
    wanted = np.eye(1, len(k) + 1)[0] * len(u)
    coefficients = np.linalg.lstsq(products, wanted, rcond=None)[0]
    weights = np.concatenate([np.maximum(coefficients @ _cosines(part, k), 0) for part in parts])
    return np.asarray(weights / weights.mean())


def require_quantiles(what: str, prior: Prior | None) -> Prior:
    """Return the prior; `UsageError` that `what` needs one with quantiles, where this is none."""
    if prior is None or not prior.has_quantile:
        raise UsageError(
            f"{what} needs a prior with quantiles: independent parameters, or a multivariate normal "
            f"without bounds. The prior is {prior or 'not known'}"
        )
    return prior


def effective_share(weights: np.ndarray) -> float:
    """Return the effective number of weighted rows beside their number, (mean w)^2 / mean w^2 (Kish 1965)."""
    return float(np.mean(weights) ** 2 / np.mean(np.square(weights)))


def frequencies(size: int, most: int) -> np.ndarray:
    """Return all k (m, D) up to the largest sum for which m is at most `most`, without k = 0."""
    chosen: list[np.ndarray] = []
    for order in count(1):
        if len(chosen) + comb(size + order - 1, order) > most:
            break
        indices = combinations_with_replacement(range(size), order)
        chosen += [np.bincount(index, minlength=size) for index in indices]
    return np.array(chosen, int).reshape(-1, size)


def _cosines(u: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return 1 and phi_k(u), shape (1 + m, n)."""
    phi = np.ones((1 + len(k), len(u)))
    for column, powers in zip(u.T, k.T, strict=True):
        cosines = np.cos(np.pi * np.outer(np.arange(powers.max(initial=0) + 1), column))
        for row, power in zip(phi[1:], powers, strict=True):
            if power:
                np.multiply(row, cosines[power], out=row)
    return phi
