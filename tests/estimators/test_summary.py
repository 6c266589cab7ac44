"""Every summary network keeps the same laws: shape, gradient, masks, artefact, finite results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators
from estimators.network.attention import AttentionBlock
from estimators.summary import TABLE, summary_network
from estimators.summary.base import Elements, Summary
from estimators.summary.identity import Identity
from estimators.summary.temporal_transformer import sinusoidal_positions

PARTS = {
    "series": {"network": "recurrent", "inputs": ["a"], "arguments": {"outputs": 5}},
    "set": {"network": "deepset", "inputs": ["b"]},
}
SERIES = {"a": (12, 2)}
RAGGED = {"a": (12, 2), "a_mask": (12,)}
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "cnn-1": ("cnn", {"a": (12,)}, {}),
    "cnn-1-channels": ("cnn", RAGGED, {"axes": 1, "channels": [4, 8]}),
    "cnn-2": ("cnn", {"a": (9, 8)}, {"channels": [4, 8]}),
    "cnn-2-channels": ("cnn", {"a": (12, 7, 3), "a_mask": (12,)}, {"channels": [4, 8]}),
    "deepset": ("deepset", {"a": (12, 2), "b": (5,), "a_mask": (12,)}, {"hidden": 8}),
    "fusion": ("fusion", {"a": (12,), "b": (5, 2), "a_mask": (12,)}, {"parts": PARTS}),
    "identity": ("identity", {"a": (2, 3), "b": ()}, {}),
    "recurrent-gru": ("recurrent", RAGGED, {"outputs": 6, "layers": 2}),
    "recurrent-lstm": ("recurrent", {"a": (7,), "b": (7, 2)}, {"cell": "lstm"}),
    "tabular": ("tabular", {"a": (2, 3), "b": ()}, {}),
    "set_transformer": ("set_transformer", RAGGED, {"width": 8, "heads": 2, "points": 3}),
    "temporal_transformer": ("temporal_transformer", SERIES, {"width": 8, "heads": 2}),
    "temporal_transformer-patch": (
        "temporal_transformer",
        RAGGED,
        {"width": 8, "heads": 2, "patch": 5, "blocks": 1},
    ),
}
MASKED = [case for case, (_, shapes, _) in CASES.items() if any("mask" in name for name in shapes)]


def outputs(shapes: dict[str, tuple[int, ...]], rows: int = 16) -> dict[str, Tensor]:
    """Random outputs; a masked one has between 1 and 8 present elements in a row."""
    generator = torch.Generator().manual_seed(1)
    x = {name: 3 + 2 * torch.randn(rows, *s, generator=generator) for name, s in shapes.items()}
    for name in [name for name in x if name.endswith("_mask")]:
        lengths = torch.randint(1, 9, (rows, 1), generator=generator)
        x[name] = (torch.arange(shapes[name][0]) < lengths).float()
        whole = name.removesuffix("_mask")
        x[whole] = x[whole] * x[name].view(*x[name].shape, *[1] * (x[whole].ndim - 2))
    return x


def build(case: str) -> tuple[Summary, dict[str, Tensor]]:
    """A network away from its first weights, in evaluation mode, and its inputs."""
    name, shapes, arguments = CASES[case]
    torch.manual_seed(0)
    network, x = summary_network(name, shapes, arguments), outputs(shapes)
    network.fit(x)
    return network.eval(), x


def test_every_network_is_tried() -> None:
    for_images = {"image", "naive_cnn"}  # see test_network.py
    assert {name for name, _, _ in CASES.values()} == set(TABLE) - for_images


@pytest.mark.parametrize("case", CASES)
def test_shape_and_standardised_start(case: str) -> None:
    network, x = build(case)
    summary = network(x)
    assert summary.shape == (16, network.width)
    assert summary.isfinite().all()
    assert summary.abs().max() < 50
    assert not torch.equal(summary[0], summary[1])


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_mix(case: str) -> None:
    network, x = build(case)
    alone = network({name: values[3:5] for name, values in x.items()})
    torch.testing.assert_close(alone, network(x)[3:5], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_parameter(case: str) -> None:
    network, x = build(case)
    inputs = {k: v if k.endswith("_mask") else v.requires_grad_() for k, v in x.items()}
    (network(inputs) * torch.randn(16, network.width)).sum().backward()
    for name, parameter in [*network.named_parameters(), *inputs.items()]:
        if name.endswith("_mask"):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", MASKED)
def test_what_stands_in_the_padding_changes_nothing(case: str) -> None:
    network, x = build(case)
    absent = x["a_mask"] == 0
    noisy = {**x, "a": x["a"].clone()}
    noisy["a"][absent] = 1e3
    torch.testing.assert_close(network(noisy), network(x))
    assert not torch.allclose(network({**x, "a": x["a"] + 1}), network(x), atol=1e-3)


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("length", [8, 10, 23])
def test_the_length_of_the_padding_changes_nothing(case: str, length: int) -> None:
    network, x = build(case)
    name, shapes, arguments = CASES[case]
    shapes = {k: (length, *s[1:]) if k in ("a", "a_mask") else s for k, s in shapes.items()}
    other = summary_network(name, shapes, arguments).eval()
    other.load_state_dict(network.state_dict())
    padded = {name: values.new_zeros(16, *shapes[name]) for name, values in x.items()}
    for key, values in x.items():
        keep = min(values.shape[1], shapes[key][0])
        padded[key][:, :keep] = values[:, :keep]
    torch.testing.assert_close(other(padded), network(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", MASKED)
def test_missing_data_give_a_finite_summary_and_gradient(case: str) -> None:
    network, x = build(case)
    network({**x, "a_mask": torch.zeros_like(x["a_mask"])}).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    nothing = {name: values.new_zeros(values.shape) for name, values in x.items()}
    assert network(nothing).isfinite().all()
    network.fit(nothing)
    assert network(x).isfinite().all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1e10, -1e30])
def test_extreme_inputs_give_a_finite_summary(case: str, size: float) -> None:
    network, x = build(case)
    huge = {
        k: v if k.endswith("_mask") else torch.full_like(v, size).requires_grad_()
        for k, v in x.items()
    }
    summary = network(huge)
    summary.sum().backward()
    assert summary.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("case", CASES)
def test_an_artefact_keeps_it(case: str, tmp_path: Path) -> None:
    name, shapes, arguments = CASES[case]
    x = {key: values.numpy() for key, values in outputs(shapes).items()}
    theta = np.random.default_rng(0).normal(size=(16, 2))
    settings = {"summary": name, "summary_arguments": arguments}
    estimator = estimators.create("nsf", theta, x, hidden=[8], transforms=1, **settings)
    estimators.save(tmp_path / "posterior", estimator, {})
    loaded = estimators.load(tmp_path / "posterior")
    expected = estimator.posterior().sample(x, 3, seed=0)
    torch.testing.assert_close(loaded.sample(x, 3, seed=0), expected)


@pytest.mark.parametrize("case", ["deepset", "set_transformer"])
def test_sets_have_no_order(case: str) -> None:
    network, x = build(case)
    order = torch.randperm(12)
    shuffled = {k: v[:, order] if k in ("a", "a_mask") else v for k, v in x.items()}
    torch.testing.assert_close(network(shuffled), network(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["recurrent-lstm", "temporal_transformer", "cnn-1"])
def test_series_have_an_order(case: str) -> None:
    network, x = build(case)
    turned = {name: values.flip(1) for name, values in x.items()}
    assert not torch.allclose(network(turned), network(x), atol=1e-2)


def test_channels_are_standardised_over_rows_and_present_elements() -> None:
    elements = Elements(RAGGED)
    mask = (torch.rand(200, 12) < 0.5).float()
    x = {"a": (3 + 5 * torch.randn(200, 12, 2)) * mask[..., None], "a_mask": mask}
    elements.fit(x)
    assert torch.allclose(elements.standard.mean, torch.full((2,), 3.0), atol=0.3)
    assert torch.allclose(elements.standard.scale, torch.full((2,), 5.0), atol=0.3)


def test_attention_is_the_softmax_of_the_scores() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(4, heads=1).double()
    queries, elements = torch.randn(1, 2, 4).double(), torch.randn(1, 5, 4).double()
    present = torch.tensor([[True, False, True, True, False]])
    seen = block.norm(elements)[:, present[0]]
    scores = block.query(block.norm(queries)) @ block.key(seen).transpose(1, 2) / 2
    h = queries + block.mix(scores.softmax(2) @ block.value(seen))
    torch.testing.assert_close(block(queries, elements, present), h + block.perceptron(h))


def test_positions_differ() -> None:
    position = sinusoidal_positions(300, 7)
    assert position.shape == (300, 7)
    assert torch.cdist(position, position).fill_diagonal_(1.0).min() > 0.01


@pytest.mark.parametrize(
    ("name", "shapes", "arguments", "error", "word"),
    [
        ("recurrant", SERIES, {}, LookupError, "recurrent"),
        ("recurrent", SERIES, {"output": 3}, TypeError, "did you mean 'outputs'"),
        ("identity", SERIES, {"outputs": 3}, TypeError, "'outputs'"),
        ("recurrent", SERIES, {"cell": "rnn"}, LookupError, "gru"),
        ("recurrent", {"a": ()}, {}, ValueError, "'a'"),
        ("recurrent", {"a": (5,), "b": (6,)}, {}, ValueError, "fusion"),
        ("recurrent", {**RAGGED, "b": (12,)}, {}, ValueError, "fusion"),
        ("temporal_transformer", SERIES, {"width": 10, "heads": 4}, ValueError, "heads"),
        ("temporal_transformer", SERIES, {"blocks": 0}, ValueError, "blocks"),
        ("temporal_transformer", SERIES, {"patch": 0}, ValueError, "patch"),
        ("set_transformer", SERIES, {"points": 0}, ValueError, "points"),
        ("recurrent", SERIES, {"outputs": 0}, ValueError, "outputs"),
        ("cnn", {"a": (4,), "b": (4,)}, {}, ValueError, "fusion"),
        ("cnn", {"a": (4,)}, {"axes": 2}, ValueError, "axes"),
        ("cnn", {"a": (4,)}, {"channels": []}, ValueError, "channels"),
        ("fusion", SERIES, {"parts": {}}, ValueError, "parts"),
        ("fusion", SERIES, {"parts": {"p": {"network": "cnn"}}}, ValueError, "inputs"),
        ("fusion", SERIES, {"parts": PARTS}, ValueError, "'b'"),
        ("fusion", {**SERIES, "b": (3,), "c": ()}, {"parts": PARTS}, ValueError, "'c'"),
        ("deepset", {"a": ()}, {}, ValueError, "'a'"),
    ],
)
def test_errors_name_what_is_wrong(
    name: str,
    shapes: dict[str, tuple[int, ...]],
    arguments: dict[str, Any],
    error: type[Exception],
    word: str,
) -> None:
    with pytest.raises(error, match=word):
        summary_network(name, shapes, arguments)


@pytest.mark.parametrize("case", CASES)
def test_simulations_differ_from_the_start(case: str) -> None:
    """Where summaries hardly vary, training waits long for x to matter."""
    name, shapes, arguments = CASES[case]
    torch.manual_seed(0)
    network, x = summary_network(name, shapes, arguments), outputs(shapes, 256)
    network.fit(x)
    with torch.no_grad():
        spread = network.eval()(x).std(0).square().mean().sqrt()
    assert 0.03 < spread < 3


def test_more_numbers_than_a_layer_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="the outputs a, x have 2000003 numbers, and without a"):
        Identity({"x": (1000, 2000), "a": (3,)})
