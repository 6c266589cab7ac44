"""Networks: the contract of free-form networks, features of time, summaries."""

from __future__ import annotations

import pytest
import torch

from estimators.network import TABLE, free_form_network
from estimators.network.base import FreeForm, Pair
from estimators.network.mlp import ResidualMLP
from estimators.network.time import LogTimeFeatures
from estimators.summary.deepset import DeepSet
from estimators.summary.identity import Identity

SETTINGS = {"adaptive_mlp": {"width": 16}, "mlp": {"width": 16}, "transformer": {"width": 8}}


def make(name: str, size: int = 9, *, trained: bool = True) -> FreeForm:
    torch.manual_seed(0)
    network = free_form_network(name, size, 3, 4, SETTINGS.get(name, {"width": 4}))
    for parameter in network.parameters() if trained else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(rows: int = 5, size: int = 9) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(rows, size), torch.randn(rows, 3), torch.randn(rows, 4)


@pytest.mark.parametrize("name", TABLE)
def test_output_starts_at_zero(name: str) -> None:
    output = make(name, trained=False)(*inputs())
    assert output.shape == (5, 9)
    assert not output.any()


@pytest.mark.parametrize("name", TABLE)
def test_rows_are_independent_and_all_inputs_count(name: str) -> None:
    network, given = make(name), inputs()
    whole = network(*given)
    assert torch.allclose(network(*(v[2:3] for v in given)), whole[2:3], atol=1e-5)
    for k in range(3):
        changed = list(given)
        changed[k] = changed[k] + 0.5
        assert not torch.allclose(network(*changed), whole, atol=1e-3)


@pytest.mark.parametrize("name", TABLE)
def test_every_parameter_is_reached(name: str) -> None:
    network = make(name)
    network(*inputs()).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_contrast_has_the_gradient_of_two_calls(name: str, dropout: float) -> None:
    if dropout and name in ("transformer", "unet"):
        pytest.skip("no dropout there")
    given = {**SETTINGS.get(name, {"width": 4}), **({"dropout": dropout} if dropout else {})}
    torch.manual_seed(0)
    network = free_form_network(name, 4, 3, 4, given).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    u, z = torch.randn(2, 5, 4, dtype=torch.float64)
    context = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn(2, 6, 8, dtype=torch.float64)
    pair = Pair(u, z, context, torch.randint(6, (5,)), table, torch.rand(6).double(), 0.3)
    masks = network.masks(5, u.device)
    masks = None if masks is None else masks.double()
    assert (masks is None) == (dropout == 0.0)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(3 * loss, [context, *network.parameters()]))

    def answer(side: int) -> torch.Tensor:
        t, skip, out, scale, *time = table[side, pair.i].T.unsqueeze(2)
        noisy = u + t * z
        return skip * noisy + out * network(scale * noisy, context, torch.cat(time, dim=1), masks)

    distance = ((answer(1) - answer(0).detach()).square().sum(1) + 0.3**2).sqrt() - 0.3
    expected = (pair.weights[pair.i] * distance).mean()
    loss = network.contrast(pair, masks)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_perceptron_without_layers() -> None:
    network = ResidualMLP(2, 3, 4, width=8, depth=0)
    torch.nn.init.normal_(network.last.weight)
    assert network(*inputs(size=2)).shape == (5, 2)


@pytest.mark.parametrize("shape", [[4, 6], [2, 3, 4], [1, 24], [5, 5], [7, 3]])
def test_images_of_any_shape(shape: list[int]) -> None:
    size = int(torch.tensor(shape).prod())
    network = free_form_network("unet", size, 3, 4, {"width": 4, "image": shape})
    torch.nn.init.normal_(network.last.weight)
    assert network(*inputs(size=size)).shape == (5, size)


def test_unet_of_the_paper_fits_fashion_mnist() -> None:
    network = free_form_network("unet", 784, 128, 64, {})
    output = network(torch.randn(2, 784), torch.randn(2, 128), torch.randn(2, 64))
    assert output.shape == (2, 784)


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("mpl", {}, LookupError, "did you mean 'mlp'"),
        ("mlp", {"widht": 3}, TypeError, "'widht'.*did you mean 'width'"),
        ("mlp", {"width": 0}, ValueError, "width"),
        ("unet", {"dropout": 0.1}, TypeError, "dropout"),
        ("unet", {}, ValueError, "does not hold 7 parameters"),
        ("unet", {"image": [2, 3]}, ValueError, r"\[2, 3\] does not hold 7"),
        ("transformer", {"heads": 3}, ValueError, "heads"),
    ],
)
def test_bad_network_is_named(name: str, given: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        free_form_network(name, 7, 3, 4, given)


def test_features_of_log_time() -> None:
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


def test_deepset_refuses_a_number() -> None:
    with pytest.raises(ValueError, match="'a'"):
        DeepSet({"a": ()})
