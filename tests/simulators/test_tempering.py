"""Tempering: modes get their weights, and populations that differ are no reference."""

from __future__ import annotations

import numpy as np
import pytest

from simulators import tempering
from simulators.tempering import diagnosed, tempered

CENTRE, STD = 2.0, 0.1


def two_modes(z):
    """0.8 N(c, s^2 I) + 0.2 N(-c, s^2 I) as a likelihood in two dimensions."""
    parts = [
        np.log(weight) - 0.5 * np.sum((z - centre) ** 2, axis=1) / STD**2
        for weight, centre in ((0.8, CENTRE), (0.2, -CENTRE))
    ]
    return np.logaddexp(*parts)


def test_modes_get_their_weights_and_moments():
    draws, diagnosis = diagnosed(two_modes, 2, 8000, np.random.default_rng(0), "two modes")
    right = draws[:, 0] > 0
    assert np.mean(right) == pytest.approx(0.8, abs=0.03)
    precision = 1 + 1 / STD**2
    expected = CENTRE / STD**2 / precision
    np.testing.assert_allclose(draws[right].mean(axis=0), expected, atol=0.006)
    np.testing.assert_allclose(draws[right].std(axis=0), precision**-0.5, rtol=0.04)
    assert diagnosis.r_hat < 1.05
    assert 100 < diagnosis.effective_size <= 8000


def test_one_mode_is_worth_independent_draws():
    def one(z):
        return -0.5 * np.sum((z - 1) ** 2, axis=1) / 0.05**2

    _, diagnosis = diagnosed(one, 3, 1000, np.random.default_rng(0), "one mode")
    assert diagnosis.effective_size > 950


def test_a_likelihood_without_information_leaves_the_prior():
    draws = tempered(lambda z: np.zeros(len(z)), 2, 4000, np.random.default_rng(0), "nothing")
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(2), atol=0.12)


def test_what_is_impossible_is_refused():
    with pytest.raises(ValueError, match=r"x = 3 has \(nearly\) no probability under the prior"):
        tempered(lambda z: np.full(len(z), np.nan), 2, 10, np.random.default_rng(0), "x = 3")


def test_populations_that_differ_are_refused(monkeypatch):
    monkeypatch.setattr(tempering, "MAX_R_HAT", 1.0)
    monkeypatch.setattr(tempering, "ATTEMPTS", 2)
    with pytest.raises(ValueError, match=r"x: no reference.*populations of 400 differ, R-hat 1\.0"):
        tempered(two_modes, 2, 10, np.random.default_rng(0), "x")
