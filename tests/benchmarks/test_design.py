"""Weights that stand in for a design."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.design import frequencies, moments, weights


def test_weighted_points_have_the_means_of_the_prior() -> None:
    u = np.random.default_rng(0).random((2000, 2))
    w = weights("weighted", u)
    phi = np.cos(np.pi * frequencies(2, 2000 // 32) * u[:, None]).prod(axis=2)
    assert w.min() > 0
    assert w.mean() == pytest.approx(1)
    np.testing.assert_allclose(w @ phi / len(u), 0, atol=1e-12)
    assert np.abs(phi.mean(0)).max() > 0.01  # without weights


def test_points_of_other_designs_count_alike() -> None:
    assert (weights("sobol", np.zeros((3, 2))) == 1).all()


def test_frequencies_are_all_those_of_the_largest_sums_that_fit() -> None:
    assert frequencies(2, 6).tolist() == [[1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    assert len(frequencies(3, 9)) == 9
    assert frequencies(4, 3).shape == (0, 4)


def test_weights_take_chance_from_moments() -> None:
    assert moments("weighted", 2, 2000, seeds=3) < 0.2 * moments("random", 2, 2000, seeds=3)
