"""Standardisation and bounded parameters."""

from __future__ import annotations

import math

import pytest
import torch

import estimators
from estimators.transform import BOUNDS, Standardizer, parameter_transform, standardise_by

INF = math.inf
LOW = torch.tensor([-1.0, 0.1, -INF, -INF], dtype=torch.float64)
HIGH = torch.tensor([2.0, INF, 5.0, INF], dtype=torch.float64)


LOG = torch.tensor([False, True, False, True])
POSITIVE = torch.tensor([-1.0, 0.01, -INF, 0.0], dtype=torch.float64)
BELOW = torch.tensor([2.0, 100.0, 5.0, INF], dtype=torch.float64)


def inside(n: int) -> torch.Tensor:
    torch.manual_seed(0)
    free = torch.randn(n, 4, dtype=torch.float64)
    box = -1 + 3 * torch.rand(n, dtype=torch.float64)
    columns = [box, 0.1 + free[:, 1].exp(), 5 - free[:, 2].exp(), 3 * free[:, 3]]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", BOUNDS)
def test_round_trip_and_standard_moments(name: str) -> None:
    transform, theta = parameter_transform(name, LOW, HIGH), inside(2000).float()
    transform.fit(theta)
    u = transform(theta)
    assert torch.allclose(u.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(u.std(0), torch.ones(4), atol=1e-2)
    assert torch.allclose(transform.inverse(u), theta, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", BOUNDS)
def test_whatever_u_is_theta_keeps_the_bounds(name: str) -> None:
    transform = parameter_transform(name, LOW, HIGH)
    transform.fit(inside(100).float())
    theta = transform.inverse(100 * torch.randn(5000, 4)).double()
    assert ((theta >= LOW) & (theta <= HIGH)).all()


def test_float32_does_not_round_across_a_bound() -> None:
    low, high = torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    transform = parameter_transform("probit", low, high)
    ends = transform.inverse(torch.tensor([[-50.0], [50.0]])).double()
    assert ends[0] >= 0.1
    assert ends[1] <= 0.7


@pytest.mark.parametrize("name", ["logit", "probit"])
def test_log_det_is_that_of_autograd(name: str) -> None:
    transform, theta = parameter_transform(name, LOW, HIGH), inside(50).float()
    transform.fit(theta)
    ours = transform.log_abs_det(theta)
    for row, value in zip(theta, ours, strict=True):
        jacobian = torch.autograd.functional.jacobian(transform, row)
        assert value.item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-3)


def test_reflection_folds_at_each_wall() -> None:
    transform = parameter_transform("reflect", LOW, HIGH)
    given = torch.tensor([[2.5, 0.0, 5.5, 7.0], [-1.5, 0.5, 4.0, -7.0], [6.0, 0.1, 5.0, 0.0]])
    expected = torch.tensor([[1.5, 0.2, 4.5, 7.0], [-0.5, 0.5, 4.0, -7.0], [0.0, 0.1, 5.0, 0.0]])
    assert torch.allclose(transform.inverse(given), expected, atol=1e-6)


def test_clipping_sets_draws_to_the_wall() -> None:
    transform = parameter_transform("clip", LOW, HIGH)
    given = torch.tensor([[2.5, 0.0, 5.5, 7.0], [-1.5, 0.5, 4.0, -7.0]])
    expected = torch.tensor([[2.0, 0.1, 5.0, 7.0], [-1.0, 0.5, 4.0, -7.0]])
    assert torch.allclose(transform.inverse(given), expected)
    assert not transform.bijective


def test_only_bounded_reflection_is_no_bijection() -> None:
    free = torch.full((2,), INF, dtype=torch.float64)
    assert parameter_transform("reflect", -free, free).bijective
    assert not parameter_transform("reflect", LOW, HIGH).bijective
    assert parameter_transform("probit", LOW, HIGH).bijective


def test_a_constant_is_only_centred() -> None:
    standard = Standardizer((2,))
    values = torch.tensor([[0.1, 1e6], [0.1, 1e6 + 2]]).repeat(50, 1)
    standard.fit(values)
    assert torch.allclose(standard(values), torch.tensor([[0.0, -1.0], [0.0, 1.0]]).repeat(50, 1))


def scaled(n: int) -> torch.Tensor:
    """Parameters of which the second and the fourth are spread out on a log scale."""
    theta = inside(n)
    theta[:, 1] = 0.01 * 10000 ** torch.rand(n, dtype=torch.float64)
    theta[:, 3] = theta[:, 3].exp()
    return theta


@pytest.mark.parametrize("name", BOUNDS)
def test_log_scale_round_trip_within_bounds(name: str) -> None:
    transform, theta = parameter_transform(name, POSITIVE, BELOW, LOG), scaled(2000).float()
    transform.fit(theta)
    u = transform(theta)
    assert torch.allclose(u.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(u.std(0), torch.ones(4), atol=1e-2)
    assert torch.allclose(transform.inverse(u), theta, atol=1e-3, rtol=1e-3)
    far = transform.inverse(100 * torch.randn(5000, 4)).double()
    assert ((far >= POSITIVE) & (far <= BELOW)).all()
    outside = torch.tensor([[0.0, 0.001, 0.0, 1.0], [0.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0]])
    assert transform.contains(outside).tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["logit", "probit"])
def test_log_scale_log_det_is_that_of_autograd(name: str) -> None:
    transform, theta = parameter_transform(name, POSITIVE, BELOW, LOG), scaled(20).float()
    transform.fit(theta)
    for row, value in zip(theta, transform.log_abs_det(theta), strict=True):
        jacobian = torch.autograd.functional.jacobian(transform, row)
        expected = torch.linalg.slogdet(jacobian)[1].item()
        assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_reflection_on_a_log_scale_is_in_orders_of_magnitude() -> None:
    transform = parameter_transform("reflect", POSITIVE, BELOW, LOG)
    u = torch.tensor([[0.0, math.log(1000.0), 0.0, 2.0]])
    assert torch.allclose(transform.inverse(u)[0, 1], torch.tensor(10.0), rtol=1e-4)


def test_robust_standardisation_is_that_of_the_bulk() -> None:
    torch.manual_seed(0)
    values = 3 + 2 * torch.randn(20_000, 5, 2)
    values[:200] = 1e6
    standard = Standardizer((5, 2))
    standardise_by(standard, "robust")
    standard.fit(values)
    assert torch.allclose(standard.mean, torch.full((5, 2), 3.0), atol=0.1)
    assert torch.allclose(standard.scale, torch.full((5, 2), 2.0), atol=0.1)


def test_robust_standardisation_of_counts_that_are_mostly_zero_takes_the_moments() -> None:
    values = torch.zeros(1000, 2)
    values[:100, 0] = 10.0
    standard, plain = Standardizer((2,)), Standardizer((2,))
    standardise_by(standard, "robust")
    standard.fit(values)
    plain.fit(values)
    assert torch.equal(standard.mean, plain.mean)
    assert torch.equal(standard.scale, plain.scale)


def test_an_estimator_is_standardised_as_asked() -> None:
    torch.manual_seed(0)
    theta = torch.randn(500, 2)
    x = {"x": theta + torch.randn(500, 2)}
    x["x"][:5] = 1e4
    scales = {}
    for method in ("moments", "robust"):
        model = estimators.create("npse", theta, x, width=8, standardisation=method)
        scales[method] = model.summary(x).std(0)
        assert model.summary(x)[5:].std() > (0.9 if method == "robust" else 0.0)
    assert (scales["moments"] < 1.01).all()
    with pytest.raises(LookupError, match="unknown standardisation 'robst'; did you mean 'robust'"):
        estimators.create("npse", theta, x, standardisation="robst")
