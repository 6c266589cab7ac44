"""Flows: invertible, with the Jacobian that autograd finds, in one dimension and in many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.flow import FlowEstimator

SMALL = {"hidden": [32], "transforms": 3}
FLOWS = {
    "acf": ("acf", SMALL),
    "acf-learnable": ("acf", {**SMALL, "permutation": "learnable"}),
    "nsf": ("nsf", {**SMALL, "bins": 8}),
    "nsf-learnable": ("nsf", {**SMALL, "permutation": "learnable"}),
    "nsf_autoregressive": ("nsf_autoregressive", SMALL),
}


def wild(name: str, size: int, arguments: dict[str, Any]) -> FlowEstimator:
    """Return a flow of D parameters far from the identity."""
    torch.manual_seed(0)
    theta = np.random.default_rng(0).normal(size=(50, size))
    flow = estimators.create(name, theta, {"x": theta}, **arguments)
    assert isinstance(flow, FlowEstimator)
    for parameter in flow.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return flow.double().eval()


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("case", FLOWS)
def test_flow_is_invertible_with_the_log_det_of_autograd(case: str, size: int) -> None:
    name, arguments = FLOWS[case]
    f = wild(name, size, arguments)
    context = torch.randn(20, size, dtype=torch.float64)
    u = 2 * torch.randn(20, size, dtype=torch.float64)
    with torch.no_grad():
        g = f.flow(context)
        z, log_det = g.call_and_ladj(u)
        assert torch.allclose(g.inv(z), u, atol=1e-6)
        assert not torch.allclose(z, u, atol=0.1)
        assert not torch.allclose(f.flow(context + 1)(u), z, atol=1e-3), "x has no effect"
    assert log_det.shape == (20,)
    jacobian = torch.autograd.functional.jacobian(lambda v: g(v).sum(0), u).movedim(1, 0)
    assert torch.allclose(log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8)


@pytest.mark.parametrize("name", ["acf", "nsf"])
def test_coupling_starts_at_the_identity(name: str) -> None:
    f = testing.make(name).eval()
    u, context = torch.randn(50, 2), torch.randn(50, 11)
    z, log_det = f.flow(context).call_and_ladj(u)
    assert torch.allclose(z.sort(dim=1).values, u.sort(dim=1).values, atol=1e-5)
    assert torch.allclose(log_det, torch.zeros(50), atol=1e-5)


def test_scale_of_a_coupling_is_bounded() -> None:
    f = testing.make("acf", transforms=1)
    with torch.no_grad():
        for parameter in f.flow.parameters():
            parameter.add_(1e3)
    _, log_det = f.eval().flow.transforms[2](torch.randn(50, 11)).call_and_ladj(torch.randn(50, 2))
    assert (log_det.abs() <= 1.9 + 1e-4).all()


@pytest.mark.parametrize("name", ["acf", "nsf", "nsf_autoregressive"])
def test_one_parameter_has_a_normalised_density(name: str) -> None:
    theta = np.random.default_rng(0).normal(size=(64, 1))
    f = estimators.create(name, theta, {"x": theta}, low=[-np.inf], high=[np.inf])
    x = {"x": np.array([[0.3]])}
    grid = np.linspace(-12, 12, 4001).reshape(1, -1, 1)
    mass = f.posterior().log_prob(grid, x).exp().sum().item() * 24 / 4000
    assert mass == pytest.approx(1, abs=1e-3)
    assert f.posterior().sample(x, 5, seed=0).shape == (1, 5, 1)


@pytest.mark.parametrize("name", ["acf", "nsf", "nsf_autoregressive"])
def test_reflection_has_no_density(name: str) -> None:
    with pytest.raises(ValueError, match="bounds"):
        testing.make(name, bounds="reflect")


@pytest.mark.parametrize("name", ["acf", "nsf", "nsf_autoregressive"])
def test_there_are_no_passes_to_choose(name: str) -> None:
    posterior = testing.make(name).posterior()
    assert posterior.sampling_steps is None
    with pytest.raises(ValueError, match=f"sampling_steps = 2: .*'{name}' takes a fixed number"):
        posterior.sample(testing.rows(1)[1], 3, sampling_steps=2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"permutation": "random"}, LookupError),
        ({"hidden": [0]}, ValueError),
        ({"transforms": 0}, ValueError),
        ({"dropout": 1.0}, ValueError),
        ({"bins": 1}, ValueError),
        ({"passes": 2}, TypeError),
    ],
)
def test_bad_argument_is_named(arguments: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        testing.make("nsf", **arguments)


def test_bfloat16_leaves_the_splines_in_single_precision() -> None:
    posterior, x = testing.trained("nsf", **SMALL).posterior(), testing.rows(2)[1]
    assert torch.equal(posterior.sample(x, 9, seed=0), posterior.sample(x, 9, seed=0, bf16=True))
