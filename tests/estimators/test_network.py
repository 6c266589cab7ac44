"""Networks: the contract of free-form networks, features of time, summaries."""

from __future__ import annotations

import math

import pytest
import torch

from estimators.network import TABLE, free_form_network
from estimators.network.base import FreeForm
from estimators.network.image import Patches
from estimators.network.mlp import ResidualMLP
from estimators.network.time import LogTimeFeatures
from estimators.summary.deepset import DeepSet
from estimators.summary.identity import Identity
from estimators.summary.image import Image
from estimators.summary.naive_cnn import NaiveCNN
from estimators.testing import check_summary

SETTINGS = {
    "adaptive_mlp": {"width": 16},
    "image_unet": {"width": 8},
    "mlp": {"width": 16},
    "naive_mlp": {"width": 16, "time_width": 5},
    "patch_transformer": {"width": 8, "patch": 2},
    "transformer": {"width": 8},
}
CONTEXT = 9  # an image of 3 x 3, as the parameters


def make(name: str, size: int = 9, *, trained: bool = True) -> FreeForm:
    torch.manual_seed(0)
    network = free_form_network(name, size, CONTEXT, 4, SETTINGS.get(name, {"width": 4}))
    for parameter in network.parameters() if trained else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(rows: int = 5, size: int = 9) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return torch.randn(rows, size), torch.randn(rows, CONTEXT), torch.randn(rows, 4)


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


def test_perceptron_without_layers() -> None:
    network = ResidualMLP(2, CONTEXT, 4, width=8, depth=0)
    torch.nn.init.normal_(network.last.weight)
    assert network(*inputs(size=2)).shape == (5, 2)


@pytest.mark.parametrize("shape", [[4, 6], [2, 3, 4], [1, 24], [5, 5], [7, 3]])
def test_images_of_any_shape(shape: list[int]) -> None:
    size = int(torch.tensor(shape).prod())
    network = free_form_network("unet", size, CONTEXT, 4, {"width": 4, "parameter_shape": shape})
    torch.nn.init.normal_(network.last.weight)
    assert network(*inputs(size=size)).shape == (5, size)


@pytest.mark.parametrize("name", ["image_unet", "patch_transformer"])
@pytest.mark.parametrize("shape", [[4, 6], [2, 3, 4], [1, 24], [5, 5], [7, 3]])
@pytest.mark.parametrize("seen", [1, 2])
def test_observed_images_of_any_shape(name: str, shape: list[int], seen: int) -> None:
    size = math.prod(shape)
    context = seen * math.prod(shape[-2:])
    settings = {"width": 8, "patch": 2, "parameter_shape": shape}
    network = free_form_network(name, size, context, 4, settings)
    torch.nn.init.normal_(network.last.weight)
    output = network(torch.randn(5, size), torch.randn(5, context), torch.randn(5, 4))
    assert output.shape == (5, size)


def test_patches_keep_pixels_together() -> None:
    patches = Patches((2, 3, 4), 2)
    image = torch.arange(24.0).reshape(1, 24)
    cut = patches.cut(image)
    assert cut.shape == (1, 8, 2, 2)
    assert cut[0, :4, 0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]  # channel 0, rows 0-1, columns 2-3
    assert torch.equal(patches.join(cut), image)


@pytest.mark.parametrize("name", ["image_unet", "patch_transformer"])
def test_an_observed_pixel_acts_where_it_is(name: str) -> None:
    torch.manual_seed(0)
    network = free_form_network(name, 576, 576, 4, {"width": 16, "parameter_shape": [24, 24]})
    for key, parameter in network.named_parameters():
        if "attend" not in key:  # what looks at the whole image stays at zero
            torch.nn.init.normal_(parameter, std=0.1)
        elif "weight" in key:
            torch.nn.init.zeros_(parameter)
    noisy, context, time = torch.randn(1, 576), torch.randn(1, 576), torch.randn(1, 4)
    context[0, 0].add_(5.0)
    moved = network(noisy, context, time)
    context[0, 0].sub_(5.0)
    change = (network(noisy, context, time) - moved).abs().reshape(24, 24)
    assert change[:4, :4].max() > 5 * change[-4:, -4:].max()


def test_image_networks_do_not_grow_with_the_square_of_the_parameters() -> None:
    for name in ("image_unet", "patch_transformer", "unet"):
        small, large = (
            sum(p.numel() for p in free_form_network(name, s * s, s * s, 32, {}).parameters())
            for s in (28, 56)
        )
        assert large < 4 * small, name


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
        ("unet", {}, ValueError, "7 parameters are no square image"),
        ("unet", {"parameter_shape": [2, 3]}, ValueError, r"\[2, 3\] does not hold 7"),
        ("unet", {"image": [2, 3]}, ValueError, r"\[2, 3\] does not hold 7"),
        ("image_unet", {"parameter_shape": [1, 7]}, ValueError, "which 3 numbers are not"),
        ("patch_transformer", {"parameter_shape": [7, 1]}, ValueError, "summary 'image'"),
        ("patch_transformer", {"heads": 5}, ValueError, "heads = 5 does not divide width"),
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


def test_image_keeps_the_pixels_of_all_outputs() -> None:
    summary = Image({"a": (4, 6), "b": (4, 6, 2)})
    x = {"a": 3 + 2 * torch.randn(50, 4, 6), "b": torch.randn(50, 4, 6, 2)}
    summary.fit(x)
    images = summary(x).reshape(50, 3, 4, 6)
    assert summary.width == 72
    assert torch.allclose(
        images[:, 0] * summary.standard.scale[0] + x["a"].mean(), x["a"], atol=1e-5
    )
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-2)


def test_image_of_another_size() -> None:
    summary = Image({"a": (4, 6)}, size=[8, 12])
    assert summary({"a": torch.ones(2, 4, 6)}).shape == (2, 96)
    assert torch.allclose(summary({"a": torch.ones(2, 4, 6)}), torch.ones(2, 96))


@pytest.mark.parametrize("shapes", [{"a": (4,)}, {"a": (4, 6), "b": (4, 5)}, {"a": ()}])
def test_image_refuses_what_is_none(shapes: dict) -> None:
    with pytest.raises(ValueError, match="summary 'image' takes outputs"):
        Image(shapes)


@pytest.mark.parametrize("shapes", [{"a": (28,)}, {"a": (8, 28)}, {"a": (28, 28), "b": (28, 28)}])
def test_naive_cnn_refuses_what_is_none(shapes: dict) -> None:
    with pytest.raises(ValueError, match="more than 8 pixels a side"):
        NaiveCNN(shapes)


def test_summary_of_the_paper() -> None:
    summary = NaiveCNN({"x": (28, 28)})
    assert [tuple(layer.weight.shape) for layer in summary.layers] == [
        (64, 1, 3, 3),
        (64, 64, 3, 3),
        (128, 64, 3, 3),
        (128, 128, 3, 3),
    ]
    assert summary({"x": torch.randn(2, 28, 28)}).shape == (2, 128)


@pytest.mark.parametrize("name", ["image", "naive_cnn"])
def test_image_summaries_keep_their_contract(name: str) -> None:
    check_summary(name, {"x": (12, 14, 2)})
