"""Importance weights at known values: evidence, effective sample size, tail."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from estimators.importance import importance, pareto_shape


def conjugate(spread: float, n: int = 20_000) -> tuple[np.ndarray, ...]:
    """theta ~ N(0, 1), x = 1 ~ N(theta, 1): the posterior is N(1/2, 1/2); a proposal of some spread."""
    rng = np.random.default_rng(0)
    proposal = stats.norm(0.5, spread)
    theta = proposal.rvs(n, random_state=rng)
    return (
        theta,
        proposal.logpdf(theta),
        stats.norm.logpdf(theta),
        stats.norm.logpdf(1.0, theta),
    )


def test_the_posterior_itself_has_equal_weights() -> None:
    _, *logs = conjugate(math.sqrt(0.5))
    result = importance(*logs)
    assert result.ess == pytest.approx(20_000, rel=1e-6)
    assert result.log_evidence == pytest.approx(stats.norm.logpdf(1.0, 0, math.sqrt(2)), abs=1e-9)
    assert np.allclose(result.weights, 1 / 20_000)


def test_a_wide_proposal_has_the_known_effective_sample_size() -> None:
    """For N(m, s^2) from N(m, v^2): n / ESS -> v / s * v / sqrt(2 v^2 - s^2)."""
    theta, *logs = conjugate(1.5)
    result = importance(*logs)
    s, v = math.sqrt(0.5), 1.5
    expected = v * v / (s * math.sqrt(2 * v * v - s * s))
    assert 20_000 / result.ess == pytest.approx(expected, rel=0.03)
    assert result.weights.sum() == pytest.approx(1)
    mean = result.weights @ theta
    assert mean == pytest.approx(0.5, abs=0.02)
    assert result.weights @ (theta - mean) ** 2 == pytest.approx(0.5, abs=0.02)
    assert result.reliable


def test_a_narrow_proposal_is_not_reliable() -> None:
    """Weights from N(m, v^2) have infinite variance for v^2 <= s^2 / 2, with k = 1 - v^2 / s^2."""
    _, *logs = conjugate(0.25)
    result = importance(*logs)
    assert result.k > 0.7
    assert not result.reliable


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8])
def test_shape_of_a_pareto_tail(k: float) -> None:
    weights = stats.genpareto(k).rvs(200_000, random_state=np.random.default_rng(1))
    assert pareto_shape(weights) == pytest.approx(k, abs=0.1)


def test_few_or_equal_weights_have_no_tail() -> None:
    assert math.isnan(pareto_shape(np.ones(10)))
    assert pareto_shape(np.ones(1000)) == -math.inf


def test_impossible_draws_weigh_nothing() -> None:
    result = importance([0.0, 0.0, 0.0], [0.0, -np.inf, 0.0], [0.0, 0.0, -np.inf])
    assert result.weights.tolist() == [1.0, 0.0, 0.0]
    assert result.ess == 1.0


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        (([0.0], [0.0, 0.0], [0.0]), r"log_prior has shape \(2,\)"),
        (([], [], []), "log_proposal has shape"),
        (([0.0], [np.nan], [0.0]), "log_prior holds NaN"),
        (([-np.inf], [0.0], [0.0]), "log_proposal holds -inf"),
        (([0.0, 1.0], [0.0, 0.0], [-np.inf, -np.inf]), "none of 2 draws"),
    ],
)
def test_bad_input_is_named(logs: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importance(*logs)
