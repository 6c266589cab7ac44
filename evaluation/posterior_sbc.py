"""Calibration at one observation: does the posterior find parameters again that were drawn from it?

Parameters theta_i ~ q(theta | x_o) are simulated, x_i ~ p(x | theta_i). Given both observations they have the
distribution

    p(theta | x_o, x_i)  proportional to  p(theta | x_o) p(theta | x_i) / p(theta)

so that their ranks among draws theta_j ~ q(theta | x_o) with the weights q(theta_j | x_i) / p(theta_j) are uniform
where q is right. Ranks go through the normal quantile, z = Phi^-1(rank): the mean of z tests the centre of the
posterior, the mean of z^2 its width. All ranks share the m draws, so that both means have the variance of
1 / (1 / n + 1 / m) ranks.

Reference: Posterior SBC: Simulation-Based Calibration Checking Conditional on Data (Säilynoja, Schmitt, Bürkner
and Vehtari 2025, arXiv 2502.03279).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2, norm

LEAST = 50  # simulations
LEAST_EFFECTIVE = 20.0  # draws, in the median of the simulations


@dataclass(frozen=True)
class PosteriorSbc:
    """The result of the test.

    Attributes:
        p_value: of all parameters and both looks together (Bonferroni).
        p_centre, p_width: of each parameter, shape (D,).
        fractions: ranks in (0, 1), shape (n, D).
        effective: median of the effective number of draws.
        simulations: n.
    """

    p_value: float
    p_centre: NDArray[np.float64]
    p_width: NDArray[np.float64]
    fractions: NDArray[np.float64]
    effective: float
    simulations: int


def posterior_sbc(
    theta: np.ndarray, pool: np.ndarray, log_weights: np.ndarray, seed: int = 0
) -> PosteriorSbc:
    """Test the ranks of simulated parameters.

    Arguments:
        theta: the parameters that were simulated, draws of the posterior, shape (n, D).
        pool: other draws of the posterior, shape (m, D).
        log_weights: log q(pool_j | x_i) - log p(pool_j), shape (n, m).
        seed: of the places between neighbouring ranks.

    Raises:
        ValueError: fewer than 50 simulations, or so few draws that carry the weight that ranks mean nothing.
    """
    if len(theta) < LEAST:
        raise ValueError(f"{len(theta)} simulations: at least {LEAST} are needed")
    largest = log_weights.max(axis=1, keepdims=True)
    weights = np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=1)
    effective = total**2 / np.maximum(np.square(weights).sum(axis=1), 1e-300)
    middle = float(np.median(effective))
    if middle < LEAST_EFFECTIVE:
        raise ValueError(
            f"the weights leave {middle:.0f} effective draws of {len(pool)}: at least "
            f"{LEAST_EFFECTIVE:.0f} are needed"
        )
    rng = np.random.default_rng(seed)
    share = _shares(theta, pool, weights / np.maximum(total, 1e-300)[:, None], rng)
    count = effective[:, None]
    fractions = (share * count + rng.random(share.shape)) / (count + 1)
    z = ndtri(np.clip(fractions, 1e-6, 1 - 1e-6))
    n = 1 / (1 / len(theta) + 1 / len(pool))  # all ranks share the error of the pool
    p_centre = 2 * norm.sf(np.abs(z.mean(0)) * np.sqrt(n))
    squares = n * np.square(z).mean(0)
    p_width = 2 * np.minimum(chi2.cdf(squares, n), chi2.sf(squares, n))
    smallest = min(p_centre.min(), p_width.min())
    p_value = float(min(1.0, 2 * theta.shape[1] * smallest))
    return PosteriorSbc(p_value, p_centre, p_width, fractions, middle, len(theta))


def _shares(
    theta: np.ndarray, pool: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the weight of the draws below each parameter, (n, D); of equal ones a part at random."""
    columns = []
    for d in range(theta.shape[1]):
        below, equal = pool[:, d] < theta[:, d, None], pool[:, d] == theta[:, d, None]
        share = (weights * below).sum(axis=1)
        if equal.any():
            share += rng.random(len(theta)) * (weights * equal).sum(axis=1)
        columns.append(share)
    return np.stack(columns, axis=1)
