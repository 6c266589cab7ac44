"""The posterior's interface: shapes, chunks, and observations that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from estimators import posterior as module
from estimators import testing


def test_log_prob_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = testing.trained("nsf", hidden=[16], transforms=2).posterior()
    theta, x = testing.rows(12)
    grid = np.stack([theta, theta[::-1], theta / 2], axis=1)
    whole = posterior.log_prob(grid, x)
    monkeypatch.setattr(module, "ROWS", 5)
    monkeypatch.setattr(module, "OBSERVATIONS", 3)
    assert whole.shape == (12, 3)
    assert torch.allclose(posterior.log_prob(grid, x), whole, atol=1e-5)


def test_observations_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = testing.trained("nsf", hidden=[16], transforms=2).posterior()
    x = testing.rows(4)[1]
    far = {
        key: value + 10 * np.arange(4).reshape(-1, *[1] * (value.ndim - 1))
        for key, value in x.items()
    }
    whole = posterior.sample(far, 500, seed=0).mean(1)
    monkeypatch.setattr(module, "ROWS", 300)
    assert torch.allclose(posterior.sample(far, 500, seed=1).mean(1), whole, atol=0.2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"counts": np.zeros((2, 3))}, "trace"),
        ({"counts": np.zeros((2, 3)), "trace": np.zeros((2, 4, 3))}, r"valid is \(B, 4, 2\)"),
        ({"counts": np.zeros((2, 3)), "trace": np.zeros((3, 4, 2))}, "shape"),
        ({"counts": np.zeros(3), "trace": np.zeros((4, 2))}, "shape"),
        ({"counts": np.full((1, 3), np.nan), "trace": np.zeros((1, 4, 2))}, "NaN"),
    ],
)
def test_wrong_observation(x: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        testing.make("cmpe", width=8).posterior().sample(x, 2)


def test_wrong_theta() -> None:
    posterior = testing.make("nsf", hidden=[8]).posterior()
    with pytest.raises(ValueError, match=r"valid is \(3, n, 2\)"):
        posterior.log_prob(np.zeros((3, 2)), testing.rows(3)[1])


def test_negative_count() -> None:
    with pytest.raises(ValueError, match="-1"):
        testing.make("cmpe", width=8).posterior().sample(testing.rows(1)[1], -1)


def test_no_seed_follows_the_global_generator() -> None:
    posterior, x = testing.make("cmpe", width=8).posterior(), testing.rows(1)[1]
    torch.manual_seed(4)
    first = posterior.sample(x, 9)
    assert not torch.equal(first, posterior.sample(x, 9))
    torch.manual_seed(4)
    assert torch.equal(first, posterior.sample(x, 9))
