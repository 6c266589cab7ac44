"""Training rows that are wrong, each with a message that names what and where."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import estimators

RNG = np.random.default_rng(0)
THETA = RNG.uniform(-1, 1, (10, 2))
X = {"x": THETA.copy()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": THETA[:, 0]}, r"theta has shape \(10,\); valid is \(n, D\)"),
        ({"theta": THETA[:0], "x": {"x": X["x"][:0]}}, "empty"),
        ({"theta": THETA[:1], "x": {"x": X["x"][:1]}}, "one simulation is not enough"),
        ({"theta": np.where(THETA > 0, np.nan, THETA)}, "theta holds NaN"),
        ({"theta": np.stack([THETA[:, 0], np.full(10, 0.5)], 1)}, "'theta1' is 0.5 in all 10 rows"),
        ({"low": [-0.1, -1.0]}, r"'theta0': \d of 10 rows lie outside its bounds \[-0.1, inf\]"),
        ({"low": [0.0, 3.0], "high": [1.0, 2.0]}, "'theta1': low 3.0 is not below high 2.0"),
        ({"low": [0.0]}, r"low has shape \(1,\); valid is \(2,\)"),
        ({"names": ["a"]}, "1 names .* for 2 parameters"),
        ({"x": {"x": X["x"][:5]}}, r"x\['x'\] has 5 rows, theta has 10"),
        ({"x": {"x": np.full((10, 1), np.inf)}}, r"x\['x'\] holds NaN, infinity"),
        ({"x": {"x": np.full((10, 1), 1e300)}}, r"what float32 cannot hold"),
    ],
)
def test_bad_rows(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimators.create("cmpe", **{"theta": THETA, "x": X, **change}, width=8)


def test_bounds_hold_up_to_rounding() -> None:
    """A draw of float64 on its bound may round across it."""
    theta = np.array([[0.1], [0.7], [0.3]])
    estimators.create("cmpe", theta, {"x": theta}, low=[0.1], high=[0.7], width=8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((10, 3)), r"x\['x'\] is the same in all 10 rows"),
        (
            np.stack([np.ones(10), THETA[:, 0]], 1),
            r"x\['x'\] has 1 of 2 elements that are the same",
        ),
        (np.ones(10), r"x\['x'\] is the same"),
        (np.ones((10, 4, 4)), r"x\['x'\] is the same"),
    ],
)
def test_a_constant_output_gives_a_warning(values: np.ndarray, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        f = estimators.create("cmpe", THETA, {"x": values}, width=8)
    assert f.posterior().sample({"x": values[:1]}, 3, seed=0).isfinite().all()


def test_constant_edges_of_pictures_and_padding_are_usual() -> None:
    picture = np.zeros((10, 4, 4))
    picture[:, 1:3, 1:3] = RNG.normal(size=(10, 2, 2))
    padded = {"x": np.zeros((10, 3)), "x_mask": np.zeros((10, 3))}
    padded["x"][:, :2], padded["x_mask"][:, :2] = THETA, 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimators.create("cmpe", THETA, {"x": picture}, width=8)
        estimators.create("cmpe", THETA, padded, width=8)
