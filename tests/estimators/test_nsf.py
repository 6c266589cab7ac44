"""Neural spline flow: invertible, with the Jacobian that autograd finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.nsf import NSF


def model(**arguments: object) -> NSF:
    estimator = testing.trained("nsf", hidden=[32], transforms=3, **arguments)
    assert isinstance(estimator, NSF)
    return estimator.eval()


@pytest.mark.parametrize("passes", [2, None])
def test_flow_is_invertible(passes: int | None) -> None:
    f, context = model(passes=passes), torch.randn(100, 11)
    u = 2 * torch.randn(100, 2)
    transform = f.flow(context).transform
    assert torch.allclose(transform.inv(transform(u)), u, atol=1e-4)


@pytest.mark.parametrize("passes", [2, None])
@pytest.mark.parametrize("bounds", ["probit", "logit"])
def test_log_prob_has_the_jacobian_of_autograd(passes: int | None, bounds: str) -> None:
    f = model(passes=passes, bounds=bounds)
    theta, x = testing.rows(6)
    ours = f.posterior().log_prob(theta[:, None], x)[:, 0]
    context = f.summary({k: torch.tensor(v).float() for k, v in x.items()})
    for i, row in enumerate(torch.tensor(theta).float()):
        transform = f.flow(context[i]).transform
        jacobian = torch.autograd.functional.jacobian(lambda v, t=transform: t(f.transform(v)), row)
        z = transform(f.transform(row))
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        expected = normal + torch.linalg.slogdet(jacobian).logabsdet
        assert ours[i].item() == pytest.approx(expected.item(), abs=1e-3)


def test_one_parameter() -> None:
    theta = np.random.default_rng(0).normal(size=(64, 1))
    f = estimators.create("nsf", theta, {"x": theta}, low=[-np.inf], high=[np.inf])
    x = {"x": np.array([[0.3]])}
    grid = np.linspace(-12, 12, 4001).reshape(1, -1, 1)
    mass = f.posterior().log_prob(grid, x).exp().sum().item() * 24 / 4000
    assert mass == pytest.approx(1, abs=1e-3)
    assert f.posterior().sample(x, 5, seed=0).shape == (1, 5, 1)


def test_reflection_has_no_density() -> None:
    with pytest.raises(ValueError, match="bounds"):
        testing.make("nsf", bounds="reflect")


def test_it_has_no_passes_to_choose() -> None:
    with pytest.raises(ValueError, match="steps"):
        model().posterior().sample(testing.rows(1)[1], 3, steps=2)
