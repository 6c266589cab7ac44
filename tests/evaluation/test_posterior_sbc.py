"""Calibration at one observation, on a normal model whose posterior is known."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.posterior_sbc import posterior_sbc

PRECISION = 1 + 4.0  # prior N(0, 1), noise of variance 1/4


def shares(factor: float, shift: float, cases: int = 60, n: int = 200, m: int = 800) -> float:
    """Return how often a posterior is doubted whose widths are multiplied and whose centres are moved."""
    width = factor / PRECISION**0.5
    doubts = []
    for case in range(cases):
        rng = np.random.default_rng(case)
        at = 4 * rng.normal(0, 1.1, 2) / PRECISION + shift * width
        theta = at + width * rng.normal(size=(n, 2))
        pool = at + width * rng.normal(size=(m, 2))
        x = theta + 0.5 * rng.normal(size=theta.shape)
        means = 4 * x / PRECISION + shift * width
        log_q = -(((pool[None] - means[:, None]) / width) ** 2).sum(-1) / 2
        log_prior = -(pool**2).sum(-1) / 2
        doubts.append(posterior_sbc(theta, pool, log_q - log_prior).p_value <= 0.05)
    return float(np.mean(doubts))


def test_a_right_posterior_passes_and_wrong_ones_do_not() -> None:
    assert shares(1.0, 0.0) <= 0.12  # 0.05 is expected, with a standard error of 0.03
    assert shares(0.8, 0.0) > 0.5
    assert shares(1.25, 0.0) > 0.6
    assert shares(1.0, 0.5) > 0.9


def test_too_few_simulations_or_draws_are_told() -> None:
    theta = np.zeros((10, 1))
    with pytest.raises(ValueError, match="10 simulations: at least 50"):
        posterior_sbc(theta, theta, np.zeros((10, 10)))
    theta, weights = np.zeros((60, 1)), np.full((60, 100), -1e3)
    weights[:, 0] = 0
    with pytest.raises(ValueError, match="1 effective draws of 100"):
        posterior_sbc(theta, np.zeros((100, 1)), weights)
