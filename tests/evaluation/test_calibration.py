"""Ranks, coverage and their null values; a biased or overconfident posterior is flagged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from evaluation.calibration import LEVELS, band, ece, null_max_ece, ranks, sbc


def calibrated(sets: int, rng: np.random.Generator, bias: float = 0.0, width: float = 1.0):
    """theta ~ N(0, 1), x = theta + N(0, 1): the posterior is N(x/2, 1/2)."""
    theta = rng.normal(size=(sets, 2))
    mean = (theta + rng.normal(size=(sets, 2))) / 2
    noise = rng.normal(size=(sets, 200, 2))
    return theta, mean[:, None] + np.sqrt(0.5) * (width * noise + bias)


def test_ranks_by_hand() -> None:
    draws = np.array([[[1.0, 5.0], [2.0, 5.0], [3.0, 4.0]]])
    assert ranks(draws, np.array([[2.5, 5.0]])).tolist() == [[2.0, 2.0]]


def test_coverage_by_hand() -> None:
    # the true value at fractional rank u lies in the central alpha-interval where |2u - 1| < alpha
    u = np.array([0.5, 0.6, 0.8, 0.97])
    draws = np.repeat(np.linspace(0, 1, 2001)[None, :, None], 4, axis=0)
    covered = (np.abs(2 * u - 1)[:, None] < LEVELS).mean(0)
    assert ece(u[:, None], draws).max == pytest.approx(np.median(np.abs(covered - LEVELS)))


@pytest.mark.parametrize(
    ("sets", "parameters", "mean", "low", "high"),
    [
        (400, 7, 0.025, 0.014, 0.040),
        (100, 2, 0.034, 0.016, 0.065),
        (100, 4, 0.044, 0.023, 0.076),
        (1000, 7, 0.016, 0.009, 0.026),
    ],
)
def test_null_of_max_ece_is_the_published_one(
    sets: int, parameters: int, mean: float, low: float, high: float
) -> None:
    null = null_max_ece(sets, parameters)
    assert null.mean() == pytest.approx(mean, abs=0.002)
    assert np.quantile(null, [0.05, 0.95]) == pytest.approx([low, high], abs=0.004)


def test_null_is_what_ece_gives_for_a_calibrated_posterior() -> None:
    rng = np.random.default_rng(3)
    values = [ece(*calibrated(100, rng)).max for _ in range(100)]
    null = null_max_ece(100, 2)
    assert np.mean(values) == pytest.approx(null.mean(), abs=4 * null.std() / np.sqrt(100))


def test_the_band_is_simultaneous() -> None:
    rng = np.random.default_rng(4)
    theta, draws = rng.random((100, 600)), rng.random((100, 300, 600))
    inside = sbc(theta, draws).inside.mean()
    assert inside == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 600))
    limits = band(100)
    middle = len(limits.points) // 2
    assert limits.high[middle] > binom.ppf(0.975, 100, 0.5) / 100 - 0.5  # wider than pointwise
    assert band(100) is limits


@pytest.mark.parametrize("wrong", [{"bias": 0.6}, {"width": 0.5}, {"width": 2.0}])
def test_a_wrong_posterior_is_flagged(wrong: dict[str, float]) -> None:
    theta, draws = calibrated(200, np.random.default_rng(5), **wrong)
    coverage, histogram = ece(theta, draws), sbc(theta, draws)
    assert coverage.max > coverage.null_band[1] or "bias" in wrong
    assert not histogram.inside.any()
    assert histogram.outside > 0.1


def test_a_right_posterior_is_not() -> None:
    theta, draws = calibrated(200, np.random.default_rng(6))
    coverage = ece(theta, draws)
    assert coverage.max < coverage.null_band[1]
    assert sbc(theta, draws).inside.all()


def test_nan_is_refused() -> None:
    theta, draws = calibrated(5, np.random.default_rng(7))
    draws[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="draws hold NaN"):
        ece(theta, draws)
