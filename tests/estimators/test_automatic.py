"""What `auto` chooses, and the two parts that it chooses for tables of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.automatic import choose, complete
from estimators.centre import Centre
from estimators.summary.tabular import Tabular

RULE = [
    ((3,), {"x": (8,)}, {"summary": "tabular", "centre": True}),
    ((3,), {"a": (), "b": (2, 3)}, {"summary": "tabular", "centre": True}),
    ((3,), {}, {"summary": "tabular", "centre": True}),
    ((3,), {"x": (28, 28)}, {"summary": "cnn"}),
    (
        (3,),
        {"x": (500, 2)},
        {"summary": "temporal_transformer", "summary_arguments": {"patch": 8}},
    ),
    (
        (3,),
        {"x": (20,), "x_mask": (20,)},
        {"summary": "temporal_transformer", "summary_arguments": {"patch": 1}},
    ),
    (
        (28, 28),
        {"x": (28, 28)},
        {
            "network": "image_unet",
            "summary": "image",
            "members": 1,
            "input_scale": 1.0,
            "bounds": "clip",
        },
    ),
    (
        (28, 28),
        {"x": (5,)},
        {
            "network": "unet",
            "summary": "tabular",
            "members": 1,
            "input_scale": 1.0,
            "bounds": "clip",
        },
    ),
]


@pytest.mark.parametrize(("shape", "x", "expected"), RULE)
def test_the_rule(shape: Any, x: Any, expected: dict[str, Any]) -> None:
    assert choose(shape, x) == expected


def test_several_kinds_of_outputs_are_joined() -> None:
    found = choose((2,), {"a": (), "b": (4,), "picture": (16, 16)})
    assert found["summary"] == "fusion"
    assert found["summary_arguments"]["parts"] == {
        "numbers": {"network": "tabular", "inputs": ["a", "b"]},
        "picture": {"network": "cnn", "inputs": ["picture"], "arguments": {}},
    }
    assert "centre" not in found


def test_what_is_given_stays() -> None:
    rule = choose((2,), {"x": (2000,)})
    assert complete(rule, {"dropout": 0.1}) == rule | {"dropout": 0.1}
    other = complete(rule, {"summary": "deepset"})
    assert other == {"summary": "deepset"}
    assert "centre" not in complete(choose((2,), {"x": (3,)}), {"summary": "deepset"})


def test_auto_becomes_the_estimator_it_stands_for() -> None:
    estimator = testing.make("auto", width=8, members=1)
    assert estimator.name == "cmpe_distilled"
    assert estimator.arguments == {
        "summary": "tabular", "centre": True, "width": 8, "members": 1,
    }  # fmt: skip
    assert "auto" in estimators.available()
    with pytest.raises(TypeError, match="has no argument 'widht'"):
        testing.make("auto", widht=8)
    with pytest.raises(LookupError, match=r"'auto' is resolved by estimators.create alone"):
        testing.make("ensemble", member="auto")


def test_outputs_that_say_nothing_are_left_out() -> None:
    """Of forty outputs one tells the mean of theta, one its size, and two only together its sign."""
    rng = np.random.default_rng(0)
    theta = torch.tensor(rng.uniform(-1, 1, (2000, 2))).float()
    x = torch.tensor(rng.standard_t(3, (2000, 40))).float()
    x[:, 3] = theta[:, 0] + 0.5 * x[:, 3]
    x[:, 7] *= 0.2 + theta[:, 1].abs()
    sign = torch.tensor(rng.choice([-1.0, 1.0], 2000)).float()
    x[:, 11], x[:, 12] = sign * x[:, 11].abs(), sign * theta[:, 0].sign() * x[:, 12].abs()
    summary = Tabular({"x": (40,)})
    summary.fit({"x": x})
    summary.select(theta, {"x": x})
    kept = set(summary.keep.nonzero().flatten().tolist())
    assert {3, 7, 11, 12} <= kept
    assert len(kept) <= 8
    assert (summary({"x": x})[:, [k for k in range(40) if k not in kept]] == 0).all()
    summary.select(torch.rand(2000, 2), {"x": x[torch.randperm(2000)]})
    assert summary.keep.sum() <= 6


def test_outputs_take_the_scale_in_which_they_are_nearest_to_normal() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(3000, 3))
    x = {"x": torch.tensor(np.stack([z[:, 0], np.exp(3 * z[:, 1]), z[:, 2] ** 3], 1)).float()}
    summary = Tabular({"x": (3,)})
    summary.fit(x)
    assert summary.scale.tolist() == [0, 2, 1]
    out = summary(x)
    assert torch.corrcoef(torch.stack([out[:, 1], torch.tensor(z[:, 1]).float()]))[0, 1] > 0.999
    assert summary.keep.all()


def test_a_linear_normal_problem_is_solved_by_its_centre() -> None:
    """theta ~ N(0, I), x = A theta + e: v is standard normal, and m the exact posterior mean."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(4, 3, generator=generator)
    theta = torch.randn(5000, 3, generator=generator)
    x = theta @ matrix.T + 0.5 * torch.randn(5000, 4, generator=generator)
    centre = Centre(4, 3)
    centre.fit(theta, x)
    exact = torch.linalg.inv(torch.eye(3) + 4 * matrix.T @ matrix)
    mean = 4 * x @ matrix @ exact
    assert (centre.mean(x) - mean).abs().mean() < 0.02
    assert (centre.root @ centre.root.T - exact).abs().max() < 0.02 * exact.diagonal().max() + 0.01
    v = centre(theta, x)
    assert torch.cov(v.T).allclose(torch.eye(3), atol=0.06)
    assert torch.allclose(centre.inverse(v, x), theta, atol=1e-4)


def test_nothing_is_centred_where_the_mean_is_not_linear_or_little_is_explained() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(2000, 2, generator=generator) * 4 - 2
    noise = 0.1 * torch.randn(2000, 1, generator=generator)
    bent, straight = Centre(2, 1), Centre(2, 1)
    bent.fit(x[:, :1] + 0.3 * x[:, :1] * x[:, 1:] + noise, x)
    assert torch.equal(bent(noise, x), noise)
    straight.fit(x[:, :1] + noise, x)
    assert straight.root.item() == pytest.approx(0.1, rel=0.1)
    alone, few = Centre(2, 1), Centre(2, 3)
    u = torch.randn(2000, 1, generator=generator)
    alone.fit(u, x)
    assert torch.equal(alone(u, x), u)
    few.fit(x[:29, :1].expand(-1, 3) + 0.01 * torch.randn(29, 3, generator=generator), x[:29])
    assert torch.equal(few.root, torch.eye(3))


def test_a_summary_with_weights_has_no_centre() -> None:
    with pytest.raises(ValueError, match="valid are summaries without weights: identity, tabular"):
        testing.make("npse", centre=True, summary="deepset")
