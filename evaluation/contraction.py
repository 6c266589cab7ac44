"""How much a posterior narrows the prior, and by how many of its widths it misses the truth.

    contraction_d = 1 - mean_i var_s(draw_isd) / var(prior_d);   by_error: with (mean_s draw_isd - theta_id)^2
    z_id = (mean_s draw_isd - theta_id) / sd_s(draw_isd);   the metric is sqrt(mean z^2), 1 for a perfect Gaussian

Contraction alone is no quality: an overconfident posterior has much of it. Look at both together.

Reference: Toward a principled Bayesian workflow in cognitive science (2019), arXiv 1904.12765.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.exchange import checked, exchanged, null_band
from evaluation.score import streamed


@dataclass(frozen=True)
class Contraction:
    """Share of the prior's variance that the data removed.

    Attributes:
        definition: the sentence beside the numbers.
        mean: over the parameters; 0 is the prior, 1 a point.
        by_error: what the errors of posterior means say: 1 - mean square error / prior variance.
        null_band: range from 5 to 95 % of `by_error` for a perfect sampler of these widths; `mean` lies near its
            middle.
        per_parameter: contraction of each parameter, shape (D,).
    """

    definition: str
    mean: float
    by_error: float
    null_band: np.ndarray
    per_parameter: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> Contraction:
        """Return the contraction of relative variances (B, D), square errors (B,) and `exchanged` ones (B, R)."""
        each = 1 - found["variances"].mean(0)
        low, high = null_band(found["null"])
        by_error = 1 - float(found["errors"].mean())
        return cls(NARROWER, float(each.mean()), by_error, np.array([1 - high, 1 - low]), each)


NARROWER = "1 - posterior variance / prior variance, mean over parameters; 0 is the prior"


def _variances(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    theta, draws = checked(theta, draws)
    whole = np.asarray(prior, np.float64).var(0, ddof=1)
    n, centre = draws.shape[1], draws.mean(1)

    def squares(truth: np.ndarray, others: np.ndarray, left_out: int = 1) -> np.ndarray:
        gap = (truth - centre) * n / (n - left_out)  # the mean of the other draws is further away
        return np.asarray((np.square(gap) / whole).mean(1))

    return {
        "variances": draws.var(1, ddof=1) / whole,
        "errors": squares(theta, draws, left_out=0),
        "null": exchanged(squares, draws),
    }


@streamed(_variances, lambda found, n, prior: Contraction.of(found))
def contraction(theta: np.ndarray, draws: np.ndarray, prior: np.ndarray) -> Contraction:
    """Posterior contraction, as the widths say and as the errors say.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        prior: draws of the prior, shape (m, D).
    """
    return Contraction.of(_variances(theta, draws, prior))


@dataclass(frozen=True)
class ZScore:
    """Errors of posterior means in units of the posterior's width.

    Attributes:
        definition: the sentence beside the numbers.
        mean: root of the mean square over test sets and parameters; above the band: overconfident.
        null_band: range from 5 to 95 % for a perfect sampler.
        per_parameter: root of the mean square, shape (D,).
        bias: mean of z, shape (D,).
    """

    definition: str
    mean: float
    null_band: np.ndarray
    per_parameter: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> ZScore:
        """Return the score of z (B, D), and of mean squares of `exchanged` ones (B, R)."""
        z = found["z"]
        each, overall = np.sqrt(np.square(z).mean(0)), float(np.sqrt(np.square(z).mean()))
        return cls(MISSES, overall, np.sqrt(null_band(found["null"])), each, z.mean(0))


MISSES = "Root mean square of (posterior mean - truth) / posterior width; 1 for a Gaussian"


def _z(theta: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    theta, draws = checked(theta, draws)
    centre, width = draws.mean(1), draws.std(1, ddof=1)

    def squares(truth: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.asarray(np.square((centre - truth) / width).mean(1))

    return {"z": (centre - theta) / width, "null": exchanged(squares, draws)}


@streamed(_z, lambda found, n, prior: ZScore.of(found))
def z_score(theta: np.ndarray, draws: np.ndarray) -> ZScore:
    """Posterior z-scores.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
    """
    return ZScore.of(_z(theta, draws))
