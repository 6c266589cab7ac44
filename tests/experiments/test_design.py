"""Weights that stand in for a design."""

from __future__ import annotations

import numpy as np

from experiments.design import moments, weights


def test_points_of_other_designs_have_equal_weights() -> None:
    assert (weights("sobol", np.zeros((3, 2))) == 1).all()


def test_weights_reduce_the_sampling_error_of_moments() -> None:
    assert moments("weighted", 2, 2000, seeds=3) < 0.2 * moments("random", 2, 2000, seeds=3)
