"""The local test of a posterior on a case with the exact posterior."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.local_c2st import c2st_local, local_c2st


def gaussian(
    n: int, seed: int, shrink: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return theta, x, draws of the exact posterior of theta ~ N(0, 1), x ~ N(theta, 1/4), and those at x = 1."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(n, 2))
    x = theta + 0.5 * rng.normal(size=(n, 2))
    width = shrink * np.sqrt(0.2)
    draws = 0.8 * x[:, None] + width * rng.normal(size=(n, 40, 2))
    return theta, x, draws, 0.8 + width * rng.normal(size=(300, 2))


def p_value(n: int, seed: int, shrink: float) -> float:
    theta, x, draws, at = gaussian(n, seed, shrink)
    return local_c2st(theta, x, draws, np.ones(2), at, nulls=19, seed=seed).p_value


def test_size_and_power() -> None:
    """A right posterior is rejected as often as the level says, one that is 40 % too narrow nearly always."""
    right = [p_value(60, seed, 1.0) for seed in range(16)]
    assert 0.25 < np.mean(right) < 0.75
    assert sum(p <= 0.05 for p in right) <= 3
    narrow = [p_value(100, seed, 0.6) for seed in range(3)]
    assert max(narrow) <= 0.05


def test_too_few_simulations() -> None:
    theta, x, draws, at = gaussian(20, 0)
    with pytest.raises(ValueError, match="20 simulations with 40 draws each"):
        local_c2st(theta, x, draws, np.ones(2), at)


def shifted(sets: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return theta, draws and x of a posterior whose centre is `shift` of its widths too high."""
    rng = np.random.default_rng(4)
    theta = rng.normal(size=(sets, 1))
    x = theta + 0.5 * rng.normal(size=theta.shape)
    draws = 0.8 * x[:, None] + np.sqrt(0.2) * (rng.normal(size=(sets, 200, 1)) + shift)
    return theta, draws, x


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_the_statistic_is_that_of_the_best_classifier(shift: float) -> None:
    """True z ~ N(-s, 1), draws z ~ N(0, 1): d(z) = 1 / (1 + exp(s z + s^2 / 2)); t by quadrature."""
    z = np.linspace(-8, 8, 4001)
    best = 1 / (1 + np.exp(shift * z + shift**2 / 2))
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    exact = float(np.sum((best - 0.5) ** 2 * density) * (z[1] - z[0]))
    theta, draws, x = shifted(1000, shift)
    found = c2st_local(theta, draws, x)
    assert found.mean == pytest.approx(exact, rel=0.2)
    assert found.mean > 3 * found.null_band[1]
    assert found.rejected > 0.9


def test_a_right_posterior_is_in_the_band() -> None:
    found = c2st_local(*shifted(200, 0.0))
    width = np.ptp(found.null_band)
    assert found.null_band[0] - width < found.mean < found.null_band[1] + width
    assert found.rejected < 0.3
    assert found.values.shape == (200,)
