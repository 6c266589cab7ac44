"""Networks: the zero start, features of time, summaries."""

from __future__ import annotations

import pytest
import torch

from estimators.network.mlp import ResidualMLP
from estimators.network.time import LogTimeFeatures
from estimators.summary.deepset import DeepSet
from estimators.summary.identity import Identity


def test_output_starts_at_zero() -> None:
    assert not ResidualMLP(3, 2, width=16, depth=2)(torch.randn(5, 3)).any()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_contrast_has_the_gradient_of_two_calls(depth: int, dropout: float) -> None:
    torch.manual_seed(0)
    network = ResidualMLP(3, 2, width=16, depth=depth, dropout=dropout).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    v = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    masks = network.masks(5, v.device)
    masks = None if masks is None else masks.double()
    assert (masks is None) == (dropout == 0.0)

    def compare(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gap = outputs[1] - outputs[0]
        return gap.pow(4).sum(), 4 * gap.pow(3)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(3 * loss, [v, *network.parameters()], allow_unused=True))

    with torch.no_grad():
        first = network(v[0], masks)
    loss = network.contrast(v, masks, compare)
    expected, _ = compare(torch.stack([first, network(v[1], masks)]))
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_of_time() -> None:
    features = LogTimeFeatures(2, highest=8.0)(torch.tensor([1.0, torch.e**2]))
    expected = torch.tensor([0.5, 4.0])
    assert torch.allclose(features[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert torch.allclose(features[1], torch.cat([expected.sin(), expected.cos()]), atol=1e-6)


def test_identity_joins_in_the_order_of_names() -> None:
    summary = Identity({"b": (2, 2), "a": ()})
    x = {"b": torch.arange(8.0).reshape(2, 2, 2), "a": torch.tensor([9.0, 8.0])}
    assert summary.width == 5
    assert torch.equal(summary(x)[0], torch.tensor([9.0, 0.0, 1.0, 2.0, 3.0]))


def test_deepset_ignores_the_order_of_elements() -> None:
    summary = DeepSet({"x": (10, 3), "y": (4,)}, outputs=7)
    x = {"x": torch.randn(5, 10, 3), "y": torch.randn(5, 4)}
    shuffled = {"x": x["x"][:, torch.randperm(10)], "y": x["y"][:, torch.randperm(4)]}
    assert summary(x).shape == (5, 7)
    assert torch.allclose(summary(x), summary(shuffled), atol=1e-6)
    assert not torch.allclose(summary(x), summary({**x, "y": x["y"] + 1}), atol=1e-3)


def test_deepset_standardises_elements_together() -> None:
    summary = DeepSet({"x": (50, 2)})
    x = 3 + 5 * torch.randn(200, 50, 2)
    summary.fit({"x": x})
    assert torch.allclose(summary.standard["x"].mean, torch.full((2,), 3.0), atol=0.2)
    assert torch.allclose(summary.standard["x"].scale, torch.full((2,), 5.0), atol=0.2)


def test_deepset_refuses_a_number() -> None:
    with pytest.raises(ValueError, match="'a'"):
        DeepSet({"a": ()})
