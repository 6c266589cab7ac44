"""The compiled training of the perceptron, beside that by torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.network import fused, kernel
from estimators.network.fused import Pair
from estimators.network.mlp import ResidualMLP

SIZE, CONTEXT, TIME, ROWS = 2, 3, 4, 20
PARTS = [SIZE, CONTEXT, TIME]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """With one thread a training takes the kernel, with two it takes torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network(depth: int = 2, dropout: float = 0.0) -> ResidualMLP:
    torch.manual_seed(0)
    made = ResidualMLP(SIZE, CONTEXT, TIME, width=24, depth=depth, dropout=dropout)
    torch.nn.init.normal_(made.last.weight, std=0.3)
    torch.nn.init.normal_(made.last.bias, std=0.3)
    return made.train()


def inputs() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(ROWS, n).requires_grad_() for n in (SIZE, CONTEXT, TIME)]


def pair(context: Tensor) -> Pair:
    torch.manual_seed(2)
    i = torch.randint(6, (ROWS,))
    u, z, table = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE), torch.randn(2, 6, 4 + TIME)
    return Pair(u, z, context, i, table, torch.rand(6), 0.3, 1.7)


def passed(made: ResidualMLP, given: list[Tensor], masks: Tensor | None) -> Tensor:
    return made(*given, masks).pow(3).sum()


def contrasted(made: ResidualMLP, given: list[Tensor], masks: Tensor | None) -> Tensor:
    """The loss of a pair: optimised on one thread, else written out."""
    points = pair(given[1])
    if fused.applies(made, points.u):
        return fused.consistency_loss(made, points, masks)

    def answer(side: int) -> Tensor:
        t, skip, out, scale, *time = points.table[side, points.interval].T.unsqueeze(2)
        noisy = points.u + t * points.z
        context = points.input_scale * points.context
        return skip * noisy + out * made(scale * noisy, context, torch.cat(time, dim=1), masks)

    distance = ((answer(1) - answer(0).detach()).square().sum(1) + points.c**2).sqrt() - points.c
    return (points.weights[points.interval] * distance).mean()


@pytest.mark.parametrize("loss", [passed, contrasted])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_loss_and_gradients_are_those_of_torch(loss, depth: int, dropout: float) -> None:
    made = network(depth, dropout)
    masks = made.masks(ROWS, torch.device("cpu"))
    wanted = ["context"] if loss is contrasted else ["noisy", "context", "time"]

    def values() -> tuple[Tensor, ...]:
        given = inputs()
        reached = [given[1]] if loss is contrasted else given
        result = loss(made, given, masks)
        return result, *torch.autograd.grad(2 * result, [*reached, *made.parameters()])

    with threads(1):
        assert fused.applies(made, inputs()[0])
        ours = values()
    with threads(2):
        assert not fused.applies(made, inputs()[0])
        theirs = values()
    names = ["loss", *wanted, *(name for name, _ in made.named_parameters())]
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(
            a,
            b,
            rtol=1e-5,
            atol=1e-5 * float(b.detach().abs().max()),
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("loss", [passed, contrasted])
def test_a_graph_that_is_kept_gives_the_same_gradient_again(loss) -> None:
    made = network()
    with threads(1):
        result = loss(made, inputs(), None)
        first = torch.autograd.grad(result, list(made.parameters()), retain_graph=True)
        second = torch.autograd.grad(result, list(made.parameters()))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("loss", [passed, contrasted])
def test_weights_that_change_before_the_way_back_are_noticed(loss) -> None:
    made = network()
    with threads(1):
        result = loss(made, inputs(), None)
        with torch.no_grad():
            made.last.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()


@pytest.mark.parametrize("loss", [passed, contrasted])
def test_nan_is_not_hidden(loss) -> None:
    made = network()
    with torch.no_grad():
        made.layers[0].weight[3, 5] = torch.nan
    with threads(1):
        result = loss(made, inputs(), None)
        result.backward()
    assert result.isnan()
    assert made.first.weight.grad is not None
    assert made.first.weight.grad.isnan().any()


def test_activation_holds_at_any_size() -> None:
    a = np.concatenate([np.linspace(-120, 120, 4801), [-3e38, -1e4, 1e4, 3e38]]).astype(np.float32)
    output, slope = np.empty((1, len(a)), np.float32), np.empty((1, len(a)), np.float32)
    zeros = np.zeros((1, len(a)), np.float32)
    one, no_mask = np.zeros((1, 1), np.float32), np.empty((0, 0), np.float32)
    kernel.forward(one, zeros.T.copy(), a, no_mask, False, output, slope)
    exact = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    silu = torch.nn.functional.silu(exact)
    (derivative,) = torch.autograd.grad(silu.sum(), exact)
    np.testing.assert_allclose(output[0], silu.detach(), rtol=3e-6, atol=1e-35)
    np.testing.assert_allclose(slope[0], derivative, rtol=1e-5, atol=1e-6)


def test_what_is_not_trained_on_one_thread_takes_torch() -> None:
    made, given = network(), inputs()[0]
    with threads(1):
        assert fused.applies(made, given)
        assert not fused.applies(made.eval(), given)
        made.train()
        assert not fused.applies(made, given.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not fused.applies(made, given)
        plain = torch.func.vmap(lambda row: made(*(v[None] for v in row.split(PARTS))))
        whole = torch.cat(inputs(), dim=1).detach()
        torch.testing.assert_close(plain(whole)[:, 0], made(*whole.split(PARTS, dim=1)))


def test_dropout_of_a_pass_without_gradient_is_that_of_one_with() -> None:
    made, given = network(dropout=0.4), [v.detach() for v in inputs()]
    masks = made.masks(ROWS, torch.device("cpu"))
    with threads(1):
        kept = made(*given, masks)
        with torch.no_grad():
            free = made(*given, masks)
    assert torch.equal(kept, free)


def test_a_posterior_needs_no_compiler() -> None:
    program = (
        "import sys, numpy as np, estimators\n"
        "theta = np.random.default_rng(0).uniform(-1, 1, (64, 2))\n"
        "model = estimators.create('cmpe', theta, {'x': theta}, low=[-1, -1], high=[1, 1], width=8)\n"
        "model.posterior().sample({'x': theta[:1]}, 3)\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
