"""MMD against double loops and against the closed form for Gaussians."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import mmd as module
from evaluation.mmd import BANDWIDTHS, mmd, mmd_paper, mmd_sets


def loops(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    distances = sorted(
        float(np.linalg.norm(x[i] - x[j])) for i in range(len(x)) for j in range(i + 1, len(x))
    )
    scale = distances[(len(distances) - 1) // 2]

    def mean(a: np.ndarray, b: np.ndarray, diagonal: bool, one_scale: bool) -> float:
        values = []
        for i in range(len(a)):
            for j in range(len(b)):
                if not diagonal and i == j:
                    continue
                d = float(((a[i] - b[j]) ** 2).sum())
                variances = [scale**2] if one_scale else BANDWIDTHS
                values.append(sum(np.exp(-d / (2 * v)) for v in variances))
        return float(np.mean(values))

    unbiased = mean(x, x, False, True) + mean(y, y, False, True) - 2 * mean(x, y, True, True)
    biased = mean(x, x, True, False) + mean(y, y, True, False) - 2 * mean(x, y, True, False)
    return unbiased, biased


@pytest.mark.parametrize("size", [7, 12])
def test_both_definitions_equal_double_loops(size: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(size, 3)), 1.0 + rng.normal(size=(9, 3))
    unbiased, biased = loops(x, y)
    assert mmd(x, y) == pytest.approx(unbiased, rel=1e-12)
    assert mmd_paper(x, y) == pytest.approx(biased, rel=1e-12)


@pytest.mark.parametrize("sizes", [(5, 9), (10, 4), (31, 30)])
def test_tiles_give_what_one_matrix_gives(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(sizes[0], 3)), 1.0 + rng.normal(size=(sizes[1], 3))
    x[1] = x[0]  # a distance of 0, in the first bin
    whole = mmd(x, y), mmd_paper(x, y)
    monkeypatch.setattr(module, "TILE", 4)
    assert (mmd(x, y), mmd_paper(x, y)) == pytest.approx(whole, rel=1e-12)
    for bins in (1, 3):
        monkeypatch.setattr(module, "BINS", bins)
        assert mmd(x, y) == pytest.approx(whole[0], rel=1e-12)
    with pytest.raises(ValueError, match="are equal"):
        mmd(np.ones_like(x), y)


def test_gaussians_have_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 10, 2000, 2))
    y[..., 0] += 1.0
    result = mmd_sets(x, y)
    # |x - x'| has median 1.665 for unit Gaussians in the plane: |x - x'|^2 / 2 is chi^2 with 2 degrees
    s2 = 2 * 2 * np.log(2)
    expected = 2 * s2 / (s2 + 2) * (1 - np.exp(-1 / (2 * (s2 + 2))))
    assert result.mean == pytest.approx(expected, rel=0.03)


def test_equal_distributions_average_to_zero_and_go_below() -> None:
    rng = np.random.default_rng(2)
    result = mmd_sets(*rng.normal(size=(2, 60, 100, 2)))
    assert abs(result.mean) < 4 * result.sem
    assert result.values.min() < 0


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 2\) and \(1, 5, 3\)"):
        mmd(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="equal"):
        mmd(np.zeros((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="two draws"):
        mmd(np.zeros((1, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        mmd(np.full((5, 2), np.nan), np.ones((5, 2)))
