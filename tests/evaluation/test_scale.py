"""Parameters on the scale of their prior."""

from __future__ import annotations

import numpy as np

from evaluation.scale import labels, on_scale


def test_only_log_parameters_change_and_nothing_in_place() -> None:
    theta = np.array([[0.01, -3.0], [100.0, 2.0]], dtype=np.float32)
    draws = np.stack([theta] * 4, axis=1)
    expected = np.array([[-2.0, -3.0], [2.0, 2.0]])
    np.testing.assert_allclose(on_scale(theta, ("log", "linear")), expected, rtol=1e-6)
    np.testing.assert_allclose(on_scale(draws, ("log", "linear"))[:, 2], expected, rtol=1e-6)
    assert theta[0, 0] == np.float32(0.01)
    assert on_scale(theta, ("linear", "linear")).dtype == np.float64


def test_labels() -> None:
    assert labels(["rate", "mu"], ["log", "linear"]) == ["log10 rate", "mu"]
