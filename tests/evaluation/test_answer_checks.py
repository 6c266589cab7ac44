"""Oddness, the predictive check, marginals: known values, and how often they flag what is right."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.gaussian import FittedGaussian
from evaluation.marginals import marginals, shortest
from evaluation.misspecification import oddness
from evaluation.predictive import predictive_check

SIZE = 8
FACTOR = np.tril(np.full((SIZE, SIZE), 0.7)) + np.eye(SIZE)


def outputs(n: int, seed: int) -> np.ndarray:
    """Correlated normal outputs (n, 8)."""
    return np.random.default_rng(seed).normal(size=(n, SIZE)) @ FACTOR.T


def test_oddness_flags_an_outlier_and_names_it() -> None:
    train, held_out = outputs(1000, 0), outputs(300, 1)
    one = outputs(1, 9)[0]
    odd = np.array(one)
    odd[5] += 8
    found = oddness(train, held_out, odd)
    assert found.p_value < 0.02
    assert np.abs(found.residual).argmax() == 5
    assert oddness(train, held_out, one).p_value > 0.05


def test_size_of_oddness_and_of_the_predictive_check() -> None:
    train, held_out = outputs(1000, 0), outputs(300, 1)
    rows = outputs(200, 3)
    flagged = sum(oddness(train, held_out, row).p_value <= 0.05 for row in rows)
    assert flagged <= 0.07 * 200
    predicted = outputs(200, 4)
    flagged = sum(predictive_check(row, predicted).p_value <= 0.05 for row in rows)
    assert flagged <= 0.09 * 200  # of 200 simulations, half of which give the covariance


def test_the_predictive_check_sees_a_wrong_scale() -> None:
    predicted = outputs(200, 4)
    wide = [predictive_check(3 * row, predicted).p_value <= 0.05 for row in outputs(20, 5)]
    assert np.mean(wide) > 0.8


def test_too_few_simulations_are_told() -> None:
    with pytest.raises(ValueError, match="40 held-out simulations: the check needs at least 60"):
        oddness(outputs(100, 0), outputs(40, 1), outputs(1, 2)[0])
    with pytest.raises(ValueError, match="79 simulations from the posterior"):
        predictive_check(outputs(1, 0)[0], outputs(79, 1))


def test_without_gives_the_conditional_mean() -> None:
    """Of many rows: E[x_0 | others] of the normal distribution itself."""
    train = outputs(200_000, 0)[:, :3]
    model = FittedGaussian(np.concatenate([train[:2000]]))
    x = np.array([5.0, 0.3, -0.2])
    covariance = (FACTOR @ FACTOR.T)[:3, :3]
    exact = covariance[0, 1:] @ np.linalg.solve(covariance[1:, 1:], x[1:])
    assert model.without(x, np.array([0]))[0] == pytest.approx(exact, abs=0.15)


def test_marginals_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    draws, prior = rng.normal(2, 0.5, (20_000, 2)), rng.normal(0, 1, (20_000, 2))
    found = marginals(draws, prior)
    assert found.contraction == pytest.approx(0.75, abs=0.02)
    assert found.mode == pytest.approx(2, abs=0.3)
    assert found.hpd[1, 0] == pytest.approx([2 - 0.822, 2 + 0.822], abs=0.06)
    assert shortest(draws, 0.5)[0] == pytest.approx([2 - 0.337, 2 + 0.337], abs=0.08)
    assert found.correlation == pytest.approx(np.eye(2), abs=0.03)
