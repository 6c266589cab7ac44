"""Posterior predictive check: is the observation like simulations at parameters that the posterior gives?

    p_T = 2 min(P(T(x_rep) <= T(x_o)), P(T(x_rep) >= T(x_o))),   x_rep ~ p(x | theta), theta ~ p(theta | x_o)

for test quantities T. One is always there: the distance of all outputs from the mean of the predicted ones,
(x - mu)' Lambda (x - mu), whose mean and covariance come from one half of them while the other half is compared.
Of it the upper tail alone counts, p = P(T(x_rep) >= T(x_o)).

Reference: Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng and Stern
1996).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from evaluation.gaussian import FittedGaussian

LEAST = 80  # simulations
LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class PredictiveCheck:
    """The result of the check.

    Attributes:
        p_value: of all test quantities together (Bonferroni).
        p_values: by name of the test quantity.
        tail: two-sided p-value of every element of the outputs, shape (E,).
        low, high: central intervals of every element for the levels 0.5 and 0.9, shape (2, E).
        inside: share of the elements inside of them, shape (2,).
        simulations: how many were compared.
    """

    p_value: float
    p_values: dict[str, float]
    tail: np.ndarray
    low: np.ndarray
    high: np.ndarray
    inside: np.ndarray
    simulations: int

    def among(self, compared: np.ndarray) -> PredictiveCheck:
        """Return the same for all elements of the outputs, NaN for those that were not `compared` (E,)."""

        def spread(values: np.ndarray) -> np.ndarray:
            result = np.full((*values.shape[:-1], len(compared)), np.nan)
            result[..., compared] = values
            return result

        tail, low, high = spread(self.tail), spread(self.low), spread(self.high)
        return replace(self, tail=tail, low=low, high=high)


def predictive_check(
    observed: np.ndarray,
    predicted: np.ndarray,
    quantities: Mapping[str, tuple[float, np.ndarray]] | None = None,
) -> PredictiveCheck:
    """Compare an observation with simulations from its posterior.

    Arguments:
        observed: outputs, shape (E,).
        predicted: of simulations, shape (n, E).
        quantities: further test quantities by name: of the observation, and of the simulations, shape (n,).

    Raises:
        ValueError: fewer than 80 simulations.
    """
    n = len(predicted)
    if n < LEAST:
        raise ValueError(f"{n} simulations from the posterior: the check needs at least {LEAST}")
    half = n // 2
    model = FittedGaussian(predicted[:half])
    distance = model.distances(predicted[half:]), model.distances(observed[None])[0]
    # One-sided: the parameters follow the observation, which so lies nearer than fresh simulations do.
    values = {"distance": float((1 + np.sum(distance[0] >= distance[1])) / (1 + n - half))}
    for name, (one, others) in (quantities or {}).items():
        values[name] = two_sided(one, np.asarray(others, float))
    tails = np.array([(1 - level) / 2 for level in LEVELS])
    low = np.quantile(predicted, tails, axis=0)
    high = np.quantile(predicted, 1 - tails, axis=0)
    inside = ((observed >= low) & (observed <= high)).mean(axis=1)
    below = (1 + np.sum(predicted <= observed, axis=0)) / (n + 1)
    above = (1 + np.sum(predicted >= observed, axis=0)) / (n + 1)
    tail = np.minimum(1.0, 2 * np.minimum(below, above))
    smallest = min(1.0, len(values) * min(values.values()))
    return PredictiveCheck(smallest, values, tail, low, high, inside, n)


def two_sided(one: float, others: np.ndarray) -> float:
    """Return the two-sided p-value of a number among others (n,); equal ones count on both sides."""
    n = len(others)
    below, above = (1 + np.sum(others <= one)) / (n + 1), (1 + np.sum(others >= one)) / (n + 1)
    return float(min(1.0, 2 * min(below, above)))
