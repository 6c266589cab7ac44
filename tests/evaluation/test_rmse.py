"""Errors at known non-zero values."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.rmse import mae, nrmse, r2, rmse, rmse_paper

THETA = np.array([[1.0, 10.0], [2.0, 20.0]])
# errors: set 0: (+3, -1), (-4, -1); set 1: (0, 2), (-2, 0)
DRAWS = np.array([[[4.0, 9.0], [-3.0, 9.0]], [[2.0, 22.0], [0.0, 20.0]]])


def test_rmse_by_hand() -> None:
    result = rmse(THETA, DRAWS)
    first = (np.sqrt(12.5) + np.sqrt(2.0)) / 2
    second = (1.0 + np.sqrt(2.0)) / 2
    assert result.per_parameter == pytest.approx([first, second])
    assert result.mean == pytest.approx((first + second) / 2)


def test_mae_has_an_absolute_value() -> None:
    result = mae(THETA, DRAWS)
    assert result.per_parameter == pytest.approx([(3.5 + 1.0) / 2, (1.0 + 1.0) / 2])


def test_the_papers_number_is_an_absolute_error_over_one_global_mean() -> None:
    prior = np.array([[-1.0, -3.0], [0.0, -4.0]])
    result = rmse_paper(THETA, DRAWS, prior)
    assert result.values == pytest.approx([(3 + 1 + 4 + 1) / 4 / 2, (0 + 2 + 2 + 0) / 4 / 2])


def test_prior_draws_give_the_known_values() -> None:
    rng = np.random.default_rng(0)
    low = np.array([-3.0, 1, 0, -5, -5, -5, -5])
    high = np.array([-1.0, 3, 1.2, 0, 0, 0, 0])  # the tumor prior, log10
    prior = rng.uniform(low, high, size=(100_000, 7))
    theta = rng.uniform(low, high, size=(400, 7))
    draws = rng.uniform(low, high, size=(400, 200, 7))
    assert rmse_paper(theta, draws, prior).mean == pytest.approx(0.893, abs=0.02)
    # sqrt((theta - m)^2 + sd^2) averaged over a uniform theta
    u = np.linspace(-1, 1, 10_001) * np.sqrt(3)
    expected = np.sqrt(u**2 + 1).mean()
    assert nrmse(theta, draws, prior).mean == pytest.approx(expected, abs=0.02)


def test_r2_is_that_of_the_medians() -> None:
    theta = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    noise = np.array([-9.0, 0.0, 1.0])[None, :, None]  # median 0
    exact = r2(theta, theta[:, None] + noise)
    assert exact.per_parameter[0] == pytest.approx(1.0)
    assert np.isnan(exact.per_parameter[1])
    off = r2(theta[:, :1], theta[:, None, :1] + noise + 1)
    assert off.mean == pytest.approx(1 - 3 / 8)
    assert r2(theta[:, :1], np.full((3, 5, 1), 2.0)).mean == pytest.approx(0.0)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and draws \(2, 2\)"):
        rmse(THETA, THETA)
