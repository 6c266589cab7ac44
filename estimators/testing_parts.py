"""The laws of networks, summary networks and preprocessing, for their authors; see `estimators.testing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from estimators.network import free_form_network
from estimators.outputs import masked
from estimators.preprocessing import Outputs, steps_of
from estimators.summary import summary_network

Shapes = Mapping[str, tuple[int, ...]]
ROWS, CONTEXT, TIME = 6, 3, 4


def check_network(name: str, size: int = 4, context: int = CONTEXT, **arguments: Any) -> None:
    """Check a free-form network: shapes, independent rows, used inputs, shared masks, gradients.

    Arguments:
        name: as an estimator's `network`.
        size: number D of parameters.
        context: size C of the context.
        arguments: the network's own settings.

    Raises:
        AssertionError: the network breaks one of them; the message says which.
    """
    torch.manual_seed(0)
    network = free_form_network(name, size, context, TIME, arguments)
    _shake(network)
    given = torch.randn(ROWS, size), torch.randn(ROWS, context), torch.randn(ROWS, TIME)
    network.train()
    masks = network.masks(ROWS, torch.device("cpu"))
    assert torch.equal(network(*given, masks), network(*given, masks)), "equal masks, other outputs"
    network.eval()
    assert network.masks(ROWS, torch.device("cpu")) is None, "masks outside of training"
    whole = network(*given)
    assert whole.shape == (ROWS, size), f"output has shape {tuple(whole.shape)}"
    assert isinstance(network.row_memory, int), "row_memory is no whole number"
    assert network.row_memory > 0, f"row_memory is {network.row_memory}"
    alone = network(*(part[2:3] for part in given))
    assert torch.allclose(alone, whole[2:3], atol=1e-4), "a row depends on the others"
    for k, what in enumerate(("noisy parameter", "context", "time")):
        changed = [part + 0.5 * (i == k) for i, part in enumerate(given)]
        assert not torch.allclose(network(*changed), whole, atol=1e-5), f"the {what} has no effect"
    _check_gradients(network, network(*given))


def check_summary(name: str, shapes: Shapes, **arguments: Any) -> None:
    """Check a summary network: shape, independent rows, gradients, outliers, padding.

    Arguments:
        name: as an estimator's `summary`.
        shapes: name -> shape of one simulation's output; a mask `name_mask` may stand beside it.
        arguments: the network's own settings.

    Raises:
        AssertionError: the network breaks one of them; the message says which.
    """
    torch.manual_seed(0)
    network, x = summary_network(name, shapes, arguments), _outputs(shapes)
    network.fit(x)
    if list(network.parameters()):
        _check_gradients(network, network.train()(x))
    whole = network.eval()(x)
    assert whole.shape == (ROWS, network.width), f"summary has shape {tuple(whole.shape)}"
    alone = network({key: values[2:3] for key, values in x.items()})
    assert torch.allclose(alone, whole[2:3], atol=1e-4), "a row depends on the others"
    for output, mask in masked(shapes).items():
        values = x[output]
        changed = {**x, output: values + 1.0}
        assert not torch.allclose(network(changed), whole), f"output {output!r} has no effect"
        huge = {**x, output: torch.full_like(values, 1e30)}
        assert network(huge).isfinite().all(), f"an outlier of {output!r} gives no finite summary"
        if mask is None:
            continue
        empty = {**x, mask: torch.zeros_like(x[mask])}
        assert network(empty).isfinite().all(), f"without elements of {output!r} it is not finite"
        gaps = (x[mask] == 0).view(*x[mask].shape, *[1] * (values.ndim - 2))
        padded = {**x, output: values.masked_fill(gaps, 9.0)}
        assert torch.allclose(network(padded), whole, atol=1e-5), f"padding of {output!r} counts"


def check_preprocessing(name: str, shapes: Shapes) -> None:
    """Check a preprocessing: announced shapes, independent rows, inputs that stay as they are.

    Arguments:
        name: as an estimator's `preprocessing`.
        shapes: name -> shape of one simulation's output.

    Raises:
        AssertionError: the preprocessing breaks one of them; the message says which.
    """
    torch.manual_seed(0)
    x, left = _outputs(shapes), dict(shapes)
    before = {key: values.clone() for key, values in x.items()}
    whole = _prepared(name, x)
    for step in steps_of(name):
        left = step.shapes(left)
    found = {key: tuple(values.shape[1:]) for key, values in whole.items()}
    assert found == left, f"shapes {found}, announced {left}"
    alone = _prepared(name, {key: values[2:3] for key, values in x.items()})
    for key, values in whole.items():
        assert torch.allclose(alone[key], values[2:3]), f"{key!r}: a row depends on the others"
        assert values.isfinite().all(), f"{key!r} is not finite"
    for key, values in before.items():
        assert torch.equal(x[key], values), f"the given {key!r} was changed"


def _prepared(name: str, x: Outputs) -> Outputs:
    for step in steps_of(name):
        x = step(x)
    return x


def _outputs(shapes: Shapes) -> dict[str, Tensor]:
    """Return random positive outputs; a mask has as many elements as its row's number plus one."""
    x = {key: torch.rand(ROWS, *shape) + 0.1 for key, shape in shapes.items()}
    for mask in masked(shapes).values():
        if mask is not None:
            count = torch.arange(1, ROWS + 1)[:, None]
            x[mask] = (torch.arange(shapes[mask][0]) < count).float()
    return x


def _shake(network: nn.Module) -> None:
    """Draw all weights at random: a network may start with an output of zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)


def _check_gradients(network: nn.Module, output: Tensor) -> None:
    output.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{key} gets a gradient that is not finite"
        assert parameter.grad.abs().sum() > 0, f"{key} gets a gradient of zero"
