"""Weights of training rows, by which low-order cosine moments of theta match the prior.

The parameters of a finite budget deviate from the prior by sampling error, and an estimator learns this
deviation: in how it divides probability between distant modes, and in how wide it is. The prior is known, so
rows are weighted until functions of theta have the means that they have under the prior.

Reference: Calibration Estimators in Survey Sampling (Deville and Saerndal 1992).
"""

from __future__ import annotations

from itertools import combinations_with_replacement, count
from math import comb

import numpy as np

from pipeline.errors import UsageError
from simulators import Prior

SHARE = 1 / 16  # functions per row: the effective number of rows falls by about this share
MOST = 64  # functions
ROWS = 8_192  # computed at a time


def prior_weights(u: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Return weights of rows under which low-order cosine moments are those of the prior.

        w_i = a + sum_k b_k phi_k(u_i),   mean w = 1,   mean w phi_k = 0,   phi_k(u) = prod_j cos(pi k_j u_j)

    for all frequencies k up to the largest sum for which there are at most `share` n of them. Of all such
    weights these are nearest to 1 in the mean square. Negative ones are set to zero.

    Arguments:
        u: the parameters on the unit cube, by the prior's cumulative distribution functions, shape (n, D).
        share: largest number of functions per row.

    Returns:
        w of mean 1, shape (n,).
    """
    k = frequencies(u.shape[1], min(MOST, int(share * len(u))))
    parts = [u[start : start + ROWS] for start in range(0, len(u), ROWS)]
    products = sum(phi @ phi.T for phi in (_cosines(part, k) for part in parts))
    wanted = np.eye(1, len(k) + 1)[0] * len(u)
    coefficients = np.linalg.lstsq(products, wanted, rcond=None)[0]
    weights = np.concatenate([np.maximum(coefficients @ _cosines(part, k), 0) for part in parts])
    return np.asarray(weights / weights.mean())


def importance_weights(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Return weights of rows whose parameters were drawn from q and are to follow the prior p.

        w_i proportional to p(theta_i) / q(theta_i),   mean w = 1

    Arguments:
        log_p, log_q: log densities at the parameters, shape (n,).

    Returns:
        w, shape (n,).
    """
    ratio = log_p - log_q
    weights = np.exp(ratio - ratio.max())
    return np.asarray(weights / weights.mean())


def require_quantiles(what: str, prior: Prior | None) -> Prior:
    """Return a prior that has quantiles.

    Arguments:
        what: what needs it, for the message.
        prior: None where it is not known.

    Raises:
        UsageError: the prior is not known or has no quantiles.
    """
    if prior is None:
        raise UsageError(f"{what} needs a prior with quantiles. The prior is not known")
    try:
        prior.require_quantile(what)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return prior


def effective_share(weights: np.ndarray) -> float:
    """Return the effective share of weighted rows (n,), (mean w)^2 / mean w^2 (Kish 1965)."""
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
