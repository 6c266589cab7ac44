from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from estimators.network import product
from estimators.network.product import linear

SIZES = [(64, 256, 256), (128, 37, 256), (5, 256, 256), (64, 256, 2)]  # rows, in, out


def values(rows: int, given: int, out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (rows, given), (out, given), (out,)
    h, weight, bias = (torch.randn(size, generator=generator) for size in sizes)
    return h.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_product_of_double_precision(sizes: tuple[int, int, int]) -> None:
    h, weight, bias = values(*sizes)
    exact = F.linear(h.double(), weight.double(), bias.double())
    torch.testing.assert_close(linear(h, weight, bias).double(), exact, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        got = linear(h.t().contiguous().t(), weight).double()
    torch.testing.assert_close(got, exact - bias.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES)
def test_its_gradients_are_those_of_linear(sizes: tuple[int, int, int]) -> None:
    inputs = values(*sizes)
    ours = torch.autograd.grad(linear(*inputs).square().sum(), inputs)
    theirs = torch.autograd.grad(F.linear(*inputs).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_it_can_be_differentiated_twice() -> None:
    inputs = values(40, 40, 40)
    (slope,) = torch.autograd.grad(linear(*inputs).pow(3).sum(), inputs[:1], create_graph=True)
    (ours,) = torch.autograd.grad(slope.square().sum(), inputs[:1])
    (slope,) = torch.autograd.grad(F.linear(*inputs).pow(3).sum(), inputs[:1], create_graph=True)
    (theirs,) = torch.autograd.grad(slope.square().sum(), inputs[:1])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_function_transforms_and_double_precision_work() -> None:
    h, weight, bias = (value.detach() for value in values(64, 64, 64))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: linear(row[None], weight, bias)[0]))(h)
    torch.testing.assert_close(jacobian, weight.expand(64, 64, 64))
    _, tangent = torch.func.jvp(lambda value: linear(value, weight, bias), (h,), (h,))
    torch.testing.assert_close(tangent, F.linear(h, weight), rtol=1e-4, atol=1e-4)
    doubles = tuple(v.double().requires_grad_() for v in (h[:3, :3], weight[:3, :3], bias[:3]))
    assert gradcheck(linear, doubles)


def test_autocast_keeps_its_precision() -> None:
    h, weight, bias = (value.detach() for value in values(64, 64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(h, weight, bias).dtype is torch.bfloat16


@pytest.mark.skipif(not product.ONEDNN_IS_FASTER, reason="torch has no wider library here")
def test_the_wide_library_is_taken_where_it_pays() -> None:
    h, weight, _ = (value.detach() for value in values(64, 256, 256))
    assert product._onednn_applies(h, weight)
    assert not product._onednn_applies(h[:5], weight)
    assert not product._onednn_applies(h.double(), weight.double())
