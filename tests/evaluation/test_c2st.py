"""C2ST at known values, and its batched classifiers against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from evaluation import classifier
from evaluation.c2st import (
    PAPER,
    SBIBM,
    c2st,
    c2st_batch,
    c2st_forest,
    c2st_forest_sets,
    c2st_paper,
    c2st_paper_sets,
    c2st_sets,
)
from evaluation.mmd import mmd_sets
from evaluation.two_sample import changed_sides


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pairs(count: int, shifts: np.ndarray, n: int = 500, dims: int = 2) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(7)
    references, draws = rng.normal(size=(2, count, n, dims))
    draws[:, :, 0] += shifts[:, None]
    return 3.0 + 5.0 * references, 3.0 + 5.0 * draws


def test_one_pair_is_sbibm_written_out() -> None:
    references, draws = pairs(1, np.array([0.7]), n=200)
    mean, sd = references[0].mean(0), references[0].std(0, ddof=1)
    rows = (np.concatenate([references[0], draws[0]]) - mean) / sd
    labels = np.repeat([0, 1], 200)
    mlp = MLPClassifier((20, 20), max_iter=10_000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    expected = cross_val_score(mlp, rows, labels, cv=folds, scoring="accuracy").mean()
    assert c2st(references[0], draws[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_accuracy_is_near_the_bayes_optimum(shift: float) -> None:
    references, draws = pairs(8, np.full(8, shift), n=1000)
    scores = c2st_batch(references, draws)
    best = norm.cdf(shift / 2)
    assert scores.mean() == pytest.approx(best, abs=0.015)
    assert scores.mean() < best + 3 * 0.01


def test_the_forest_is_scikit_learns() -> None:
    references, draws = pairs(2, np.array([0.5, 1.5]), n=50, dims=3)
    folds = KFold(5, shuffle=True, random_state=1)
    for found, x, y in zip(
        c2st_forest_sets(references, draws).values, references, draws, strict=True
    ):
        mean, sd = x.mean(0), x.std(0, ddof=1)
        rows, labels = (np.concatenate([x, y]) - mean) / sd, np.repeat([0, 1], 50)
        forest = RandomForestClassifier(random_state=1)
        assert found == cross_val_score(forest, rows, labels, cv=folds, scoring="accuracy").mean()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_forest_is_near_and_below_the_bayes_optimum(shift: float) -> None:
    """The best classifier of two Gaussians at distance d is right in Phi(d / 2); a forest overfits."""
    references, draws = pairs(1, np.array([shift]), n=500)
    best = norm.cdf(shift / 2)
    assert best - 0.09 < c2st_forest(references[0], draws[0]) < best + 0.03


@pytest.mark.parametrize(("metric", "sets"), [(c2st_sets, 9), (c2st_forest_sets, 3), (mmd_sets, 9)])
def test_the_band_holds_equal_distributions_and_no_others(metric: Any, sets: int) -> None:
    references, draws = pairs(sets, np.zeros(sets), n=40, dims=1)
    good, bad = metric(references, draws), metric(references, draws + 20.0)
    width = np.ptp(good.null_band)
    assert good.null_band[0] - width < good.mean < good.null_band[1] + width
    assert bad.mean > bad.null_band[1]
    assert metric(references[:1], draws[:1]).null_band is None


def test_some_of_many_test_sets_change_sides() -> None:
    references, draws = pairs(50, np.full(50, 100.0), n=10)
    mixed, others = changed_sides(references, draws, 50)
    assert mixed.shape == others.shape == (10, 10, 2)
    rows = np.concatenate([references[5], draws[5]])
    assert sorted(np.concatenate([mixed[1], others[1]])[:, 0]) == sorted(rows[:, 0])
    assert not np.array_equal(mixed[1], references[5])
    block, _ = changed_sides(references[10:20], draws[10:20], 50)
    np.testing.assert_array_equal(block, mixed[2:4])


@pytest.mark.parametrize("dims", [1, 2])
def test_batch_is_scikit_learn_in_double_precision(dims: int) -> None:
    references, draws = pairs(2, np.array([0.5, 1.5]), n=130, dims=dims)
    for definition in (SBIBM, PAPER):
        single = [c2st(x, y, definition=definition) for x, y in zip(references, draws, strict=True)]
        batch = c2st_batch(references, draws, definition=definition, dtype=torch.float64)
        assert batch == pytest.approx(single, abs=1e-9)


def test_training_is_scikit_learns_to_rounding() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(classifier.SLOTS + 3, 230, 2))  # more than fit at once, a short last batch
    y = (x[..., 0] + rng.normal(size=x.shape[:2]) > 0).astype(float)
    weights, epochs = classifier.train(torch.as_tensor(x), torch.as_tensor(y), 7, seed=3)
    assert len(set(epochs.tolist())) > 3
    for i in (0, 1, len(x) - 1):
        mlp = MLPClassifier((7, 7), max_iter=10_000, random_state=3).fit(x[i], y[i])
        assert epochs[i] == mlp.n_iter_
        for layer in range(3):
            matrix, bias = weights[2 * layer][i].numpy(), weights[2 * layer + 1][i, 0].numpy()
            np.testing.assert_allclose(matrix, mlp.coefs_[layer], rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(bias, mlp.intercepts_[layer], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_single_precision_agrees_closely() -> None:
    references, draws = pairs(60, np.linspace(0, 1.5, 60), n=1000)
    single = np.array([c2st(x, y) for x, y in zip(references, draws, strict=True)])
    batch = c2st_batch(references, draws)
    assert abs((batch - single).mean()) < 0.003
    assert np.corrcoef(batch, single)[0, 1] > 0.99


def test_the_paper_scores_a_quarter_once() -> None:
    references, draws = pairs(1, np.array([1.0]), n=100)
    score = c2st_paper(references[0], draws[0])
    assert score * 50 == pytest.approx(round(score * 50))
    assert c2st_paper_sets(references, draws).definition == PAPER.sentence


def test_scores_hold_mean_and_standard_error() -> None:
    references, draws = pairs(4, np.array([0.0, 1, 2, 3]), n=100)
    result = c2st_sets(references, draws)
    assert result.values.shape == (4,)
    assert result.mean == pytest.approx(result.values.mean())
    assert result.sem == pytest.approx(result.values.std(ddof=1) / 2)
    assert np.all(np.diff(result.values) > 0)


def test_folds_of_unequal_size_and_sides_of_unequal_size() -> None:
    references, draws = pairs(3, np.full(3, 20.0), n=53)
    assert c2st_batch(references, draws[:, :41]) == pytest.approx([1, 1, 1])


def test_a_set_does_not_depend_on_how_many_others_there_are_beyond_rounding() -> None:
    references, draws = pairs(8, np.full(8, 1.0), n=200)
    many, few = c2st_batch(references, draws), c2st_batch(references[:3], draws[:3])
    assert many[:3] == pytest.approx(few, abs=0.03)
    assert np.array_equal(many, c2st_batch(references, draws))


def test_bad_input_is_named() -> None:
    references, draws = pairs(2, np.zeros(2), n=20)
    with pytest.raises(ValueError, match=r"\(2, 20, 2\) and \(2, 20, 1\)"):
        c2st_batch(references, draws[..., :1])
    draws[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"draws hold NaN or Inf in test sets \[1\]"):
        c2st_batch(references, draws)
    references[0, :, 1] = 4.0
    with pytest.raises(ValueError, match="test set 0, parameter 1"):
        c2st_batch(references, np.nan_to_num(draws))
