"""Proper scoring rules: the exact posterior has the lowest mean, and no reference posterior is needed.

    CRPS    per parameter: mean_s |draw_s - theta| - 1/2 mean_{s != t} |draw_s - draw_t|
    energy  the same with the Euclidean norm, each parameter in units of its prior's standard deviation

The mean over test sets alone says little, as it depends on how much the data tell. The band beside it is what the
posterior would have if its draws were true; above the band it is wrong.

Reference: Strictly Proper Scoring Rules, Prediction, and Estimation (2007), J. Am. Stat. Assoc. 102:359.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.exchange import checked, exchanged, null_band
from evaluation.score import Scores, streamed

MOST_PAIRED = 500  # draws whose distances to each other are computed


@dataclass(frozen=True)
class ProperScore:
    """Mean of a proper score, lower is better.

    Attributes:
        definition: the sentence beside the numbers.
        mean, sem: over the test sets.
        null_band: range from 5 to 95 % of the mean, were the draws those of the true posterior.
        per_parameter: mean for each parameter, shape (D,); empty for the energy score.
    """

    definition: str
    mean: float
    sem: float
    null_band: np.ndarray
    per_parameter: np.ndarray

    @classmethod
    def of(cls, definition: str, found: Mapping[str, np.ndarray]) -> ProperScore:
        """Return the score of values (B, D) or (B, 1), and of `exchanged` ones (B, R)."""
        values = found["values"]
        over, each = Scores.of(definition, values.mean(1)), values.mean(0)
        parts = each if values.shape[1] > 1 else np.zeros(0)
        return cls(definition, over.mean, over.sem, null_band(found["null"]), parts)


CRPS = "CRPS in units of the prior's standard deviation, mean over parameters"
ENERGY = "Energy score of the joint posterior, in units of the prior's standard deviations"


def _crps(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    theta, draws = _in_units(theta, draws, prior)
    spread = crps_spread(draws)

    def left_out(truth: np.ndarray, others: np.ndarray) -> np.ndarray:
        far = np.abs(others - truth[:, None]).sum(1) / (others.shape[1] - 1)  # not to itself
        return np.asarray((far - spread).mean(1))

    values = np.abs(draws - theta[:, None]).mean(1) - spread
    return {"values": values, "null": exchanged(left_out, draws)}


@streamed(_crps, lambda found, n, prior: ProperScore.of(CRPS, found))
def crps(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ProperScore:
    """Continuous ranked probability score, in units of the prior's standard deviation.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D).
    """
    return ProperScore.of(CRPS, _crps(theta, draws, prior))


def crps_spread(draws: np.ndarray) -> np.ndarray:
    """Return half of the mean distance of two different draws (B, n, D), shape (B, D)."""
    n = draws.shape[1]
    weights = 2 * np.arange(1, n + 1) - n - 1  # of the sorted draws, in the sum over pairs
    return np.asarray(np.einsum("s,bsd->bd", weights, np.sort(draws, axis=1)) / (n * (n - 1)))


def _energy(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    theta, draws = _in_units(theta, draws, prior)
    spread = energy_spread(draws[:, :MOST_PAIRED])

    def values(truth: np.ndarray, others: np.ndarray, left_out: int = 1) -> np.ndarray:
        far = np.linalg.norm(others - truth[:, None], axis=2).sum(1)
        return np.asarray(far / (others.shape[1] - left_out) - spread)

    own = values(theta, draws, left_out=0)
    return {"values": own[:, None], "null": exchanged(values, draws)}


@streamed(_energy, lambda found, n, prior: ProperScore.of(ENERGY, found))
def energy(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> ProperScore:
    """Energy score of the joint posterior, each parameter in units of its prior's standard deviation.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D); distances to each other are those of the first 500.
        prior: draws of the prior, shape (m, D).
    """
    return ProperScore.of(ENERGY, _energy(theta, draws, prior))


def energy_spread(draws: np.ndarray) -> np.ndarray:
    """Return half of the mean distance of two different draws (B, n, D), shape (B,)."""
    from scipy.spatial.distance import pdist

    return np.array([0.5 * pdist(one).mean() for one in draws])


def _in_units(
    theta: np.ndarray, draws: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    theta, draws = checked(theta, draws)
    scale = np.std(prior, axis=0, ddof=1)
    return theta / scale, draws / scale
