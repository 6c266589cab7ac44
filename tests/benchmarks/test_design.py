"""Weights that stand in for a design."""

from __future__ import annotations

import numpy as np

from benchmarks.design import moments, weights


def test_points_of_other_designs_count_alike() -> None:
    assert (weights("sobol", np.zeros((3, 2))) == 1).all()


def test_weights_take_chance_from_moments() -> None:
    assert moments("weighted", 2, 2000, seeds=3) < 0.2 * moments("random", 2, 2000, seeds=3)
