"""Importance weights: from draws of an approximate posterior to the exact one.

Where the likelihood can be computed, draws theta_i ~ q(theta | x) get the weights

    w_i = p(theta_i) p(x | theta_i) / q(theta_i | x)

Weighted means converge to those of the posterior, as long as q covers it, and the mean of w is the
evidence p(x). Few large weights mean that q misses part of the posterior; two numbers show it:

    ESS = (sum w)^2 / sum w^2    effective sample size, out of n
    k                            shape of a generalised Pareto distribution fitted to the largest
                                 weights; above 0.7 no weighted mean is to be trusted

Vehtari, Simpson, Gelman, Yao, Gabry: Pareto Smoothed Importance Sampling (2024), arXiv 1507.02646.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
FEWEST = 5  # weights in a tail to which a Pareto distribution is fitted


@dataclass(frozen=True)
class Importance:
    """Weights of n draws, and diagnostics of the proposal."""

    weights: Array  # (n,), their sum is 1
    ess: float  # effective sample size, between 1 and n
    log_evidence: float  # estimate of log p(x)
    k: float  # shape of the largest weights' distribution; NaN for fewer than 25 draws

    @property
    def reliable(self) -> bool:
        """Whether weighted means are to be trusted: k up to 0.7."""
        return self.k <= 0.7


def importance(
    log_proposal: ArrayLike, log_prior: ArrayLike, log_likelihood: ArrayLike
) -> Importance:
    """Return the importance weights of draws from a proposal.

    Arguments:
        log_proposal: log q(theta_i | x), shape (n,).
        log_prior: log p(theta_i), shape (n,).
        log_likelihood: log p(x | theta_i), shape (n,); -inf where x is impossible.

    Raises:
        ValueError: shapes that disagree, NaN, or no draw with a positive weight.
    """
    parts = {
        "log_proposal": np.asarray(log_proposal, dtype=np.float64),
        "log_prior": np.asarray(log_prior, dtype=np.float64),
        "log_likelihood": np.asarray(log_likelihood, dtype=np.float64),
    }
    shape = parts["log_proposal"].shape
    for name, values in parts.items():
        if values.ndim != 1 or values.shape != shape or not values.size:
            raise ValueError(f"{name} has shape {values.shape}; valid is (n,), the same for all")
        if np.isnan(values).any() or (values == np.inf).any():
            raise ValueError(f"{name} holds NaN or infinity")
    if np.isneginf(parts["log_proposal"]).any():
        raise ValueError("log_proposal holds -inf: such a draw cannot come from the proposal")
    log_weights = parts["log_prior"] + parts["log_likelihood"] - parts["log_proposal"]
    largest = log_weights.max()
    if np.isneginf(largest):
        raise ValueError(
            f"none of {len(log_weights)} draws is possible under prior and likelihood: "
            "the proposal does not overlap the posterior"
        )
    weights = np.exp(log_weights - largest)
    log_evidence = float(largest + np.log(weights.mean()))
    k = pareto_shape(weights)
    weights /= weights.sum()
    return Importance(weights, float(1 / np.sum(weights**2)), log_evidence, k)


def pareto_shape(weights: Array) -> float:
    """Return k of the largest min(n / 5, 3 sqrt(n)) weights, NaN where these are fewer than 5.

    The posterior mean of the shape under the weakly informative prior of Zhang, Stephens: A New and
    Efficient Estimation Method for the Generalized Pareto Distribution (2009), and the shrinkage
    towards 0.5 of Vehtari et al.
    """
    n = len(weights)
    count = int(min(n / 5, 3 * np.sqrt(n)))
    if count < FEWEST:
        return float("nan")
    ordered = np.sort(weights)
    excess = ordered[-count:] - ordered[-count - 1]
    if excess[-1] <= 0:  # all the largest are equal: no tail at all
        return -np.inf
    excess = np.maximum(excess, np.finfo(float).tiny)
    grid = np.arange(1, 31 + int(np.sqrt(count))) - 0.5
    quartile = excess[int(count / 4 + 0.5) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(len(grid) / grid)) / (3 * quartile)
    shapes = np.array([np.mean(np.log1p(-value * excess)) for value in b])
    profile = count * (np.log(-b / shapes) - shapes - 1)
    likelihood = np.exp(profile - profile.max())
    best = float(b @ (likelihood / likelihood.sum()))
    k = float(np.mean(np.log1p(-best * excess)))
    return (count * k + 5.0) / (count + 10)
