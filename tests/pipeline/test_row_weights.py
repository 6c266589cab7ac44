"""Weights of rows that stand in for what is known of the prior."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.train import row_weights
from pipeline.train.row_weights import MOST, SHARE, effective_share, frequencies, prior_weights


def means(u: np.ndarray, w: np.ndarray, k: np.ndarray) -> np.ndarray:
    return w @ np.cos(np.pi * k * u[:, None]).prod(axis=2) / len(u)


def test_weighted_points_have_the_means_of_the_prior() -> None:
    u = np.random.default_rng(0).random((1000, 2))
    w, k = prior_weights(u), frequencies(2, int(SHARE * 1000))
    assert w.min() > 0
    assert w.mean() == pytest.approx(1)
    np.testing.assert_allclose(means(u, w, k), 0, atol=1e-12)
    assert np.abs(means(u, np.ones(1000), k)).max() > 0.01  # without weights
    assert 0.9 < effective_share(w) < 1


def test_many_rows_have_no_more_functions_than_help() -> None:
    u = np.random.default_rng(5).random((4000, 2))
    w, least, more = prior_weights(u), frequencies(2, MOST), frequencies(2, int(SHARE * 4000))
    np.testing.assert_allclose(means(u, w, least), 0, atol=1e-12)
    assert len(more) > len(least)
    assert np.abs(means(u, w, more)).max() > 0.01


def test_weights_are_the_nearest_to_one() -> None:
    """Any other weights with these means differ by what no function sees, which makes them larger."""
    rng = np.random.default_rng(1)
    u = rng.random((500, 1))
    w, k = prior_weights(u), frequencies(1, int(SHARE * 500))
    phi = np.concatenate([np.ones((500, 1)), np.cos(np.pi * u * k[:, 0])], axis=1)
    other = rng.normal(size=500)
    unseen = other - phi @ np.linalg.lstsq(phi, other, rcond=None)[0]
    np.testing.assert_allclose(means(u, w + 0.1 * unseen, k), 0, atol=1e-12)
    assert np.square(w + 0.1 * unseen - 1).sum() > np.square(w - 1).sum()


def test_many_rows_are_taken_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    u = np.random.default_rng(2).random((300, 3))
    whole = prior_weights(u)
    monkeypatch.setattr(row_weights, "ROWS", 77)
    np.testing.assert_allclose(prior_weights(u), whole, rtol=1e-9)


def test_functions_that_cannot_be_told_apart_do_no_harm() -> None:
    u = np.repeat([[0.25], [0.75]], 64, axis=0)  # cos(2 pi u) is 0 in both
    np.testing.assert_allclose(prior_weights(u), 1)


def test_few_rows_and_many_parameters_are_not_weighted() -> None:
    assert (prior_weights(np.random.default_rng(3).random((100, 10))) == 1).all()


def test_parameters_from_elsewhere_count_little_and_none_counts_negatively() -> None:
    w = prior_weights(np.random.default_rng(4).beta(2, 8, (2000, 1)))
    assert w.min() == 0
    assert w.mean() == pytest.approx(1)
    assert effective_share(w) < 0.8


def test_frequencies_are_all_those_of_the_largest_sums_that_fit() -> None:
    assert frequencies(2, 6).tolist() == [[1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    assert len(frequencies(3, 9)) == 9
    assert frequencies(4, 3).shape == (0, 4)
