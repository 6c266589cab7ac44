"""Inverse problems: operators, exact priors and posteriors, every method's laws, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import estimators
from estimators import inverse
from estimators.inverse.flow import flow_end
from estimators.inverse.linear import blur, downsample, identity, inpaint, matrix

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
FEW: dict[str, dict[str, Any]] = {
    "cm_guidance": {"passes": 10},
    "cm_inversion": {"passes": 10},
    "cm_smc": {"particles": 30, "moves": 2, "final_moves": 2},
    "dps_ode": {"passes": 12},
    "freedom": {"passes": 10},
}


def mixture(steps: int = 16) -> inverse.GaussianMixture:
    return inverse.GaussianMixture(
        MEANS, torch.tensor([0.1, 0.2, 0.05]), torch.tensor([1.0, 2.0, 1.0]), steps=steps
    )


def first_coordinate(sigma: float = 0.5) -> inverse.Operator:
    return matrix(torch.tensor([[1.0, 0.5]]), sigma)


# --- exact priors and posteriors -----------------------------------------------------------------


def test_the_denoiser_is_the_score_of_the_smoothed_mixture() -> None:
    """D = u + sigma^2 grad log p_sigma, by autograd of a density from torch.distributions."""
    prior, sigma = mixture(), 0.7
    u = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scale = (prior.variances + sigma**2).sqrt()[:, None].expand(3, 2)
    normal = torch.distributions.Independent(torch.distributions.Normal(MEANS, scale), 1)
    weights = torch.distributions.Categorical(torch.tensor([1.0, 2.0, 1.0]))
    density = torch.distributions.MixtureSameFamily(weights, normal)
    (score,) = torch.autograd.grad(density.log_prob(u).sum(), u)
    assert torch.allclose(prior.denoise(u, sigma), u + sigma**2 * score, atol=1e-4)


def test_the_flow_carries_noise_to_the_prior() -> None:
    prior = mixture(steps=32)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    drawn = prior.consistency(prior.sigma_max * z, prior.sigma_max)
    exact = prior.sample(4000, torch.Generator().manual_seed(1))
    assert drawn.mean(0) == pytest.approx(exact.mean(0), abs=0.1)
    assert torch.cov(drawn.T).flatten() == pytest.approx(torch.cov(exact.T).flatten(), abs=0.2)
    normal = inverse.GaussianMixture(torch.zeros(1, 2), 4.0)
    u = 3 * torch.randn(10, 2)
    end = flow_end(normal.denoise, u, 5.0, normal.sigma_min, 100)
    assert torch.allclose(end, u * 2 / 29**0.5, rtol=3e-3)  # the flow of one normal is a scale


def test_the_exact_posterior_agrees_with_weighted_draws_of_the_prior() -> None:
    prior, operator = mixture(), first_coordinate()
    y = torch.tensor([0.4])
    posterior = inverse.ExactPosterior(prior, operator, y)
    u = prior.sample(400_000, torch.Generator().manual_seed(0))
    weights = operator.noise_model.log_prob(y, operator.A(u)).softmax(0)
    mean, variance = posterior.moments()
    assert mean == pytest.approx(weights @ u, abs=0.02)
    assert variance == pytest.approx(weights @ (u - mean).square(), abs=0.03)
    draws = posterior.sample(50_000, 0)
    assert draws.mean(0) == pytest.approx(mean, abs=0.03)
    assert draws.var(0) == pytest.approx(variance, abs=0.05)
    assert 1 < posterior.components < 3


# --- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operator", [downsample(), blur(), inpaint(), identity()], ids=lambda o: o.name
)
def test_adjoint_and_pseudo_inverse(operator: inverse.Operator) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 784, generator=generator)
    f = operator.A(x)
    v = torch.randn(f.shape, generator=generator)
    inner = (f * v).flatten(1).sum(1)
    assert torch.allclose(inner, (x * operator.adjoint(v, 784)).sum(1), rtol=1e-3, atol=1e-3)
    if operator.name != "blur":  # its smallest singular values are lost in single precision
        assert torch.allclose(operator.A(operator.pinv(f, 784)), f, atol=1e-3)
    assert not torch.equal(operator(x, seed=1), operator(x, seed=2))


def test_an_operator_by_name(tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from estimators.inverse import operator\n\n\n"
        "@operator(sigma=0.1)\ndef brightness(theta):\n    return theta.mean(1, keepdim=True)\n\n\n"
        "def plain(theta):\n    return theta\n"
    )
    assert inverse.operator_of(f"{file}:brightness").A(torch.ones(2, 3)).tolist() == [[1.0], [1.0]]
    assert inverse.operator_of("downsample", factor=2).A(torch.ones(1, 784)).shape == (1, 14, 14)
    with pytest.raises(
        LookupError, match="unknown operator 'downsampel'; did you mean 'downsample'"
    ):
        inverse.operator_of("downsampel")
    with pytest.raises(TypeError, match="decorate it"):
        inverse.operator_of(f"{file}:plain")


# --- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", inverse.available())
def test_every_method_keeps_the_laws(name: str) -> None:
    """Shapes, finite draws, equal seeds, counted passes, and draws that come closer to y than the prior's."""
    prior, operator = mixture(), first_coordinate()
    solver = inverse.create(name, prior, **FEW.get(name, {"passes": 10}))
    y = torch.tensor([[0.4], [-2.0]])
    solution = solver.solve(y, operator, 40, 0)
    assert solution.draws.shape == (2, 40, 2)
    assert solution.draws.isfinite().all()
    assert 0 < solution.passes < 60
    torch.manual_seed(5)
    assert torch.equal(solver(y, operator, 40, 0), solution.draws)
    assert not torch.equal(solver(y, operator, 40, 1), solution.draws)
    assert solver(y[0], operator, 3, 0).shape == (3, 2)
    unguided = prior.sample(40, torch.Generator().manual_seed(0))
    far = (operator.A(unguided) - y[0]).abs().mean()
    assert (operator.A(solution.draws[0]) - y[0]).abs().mean() < far


@pytest.mark.parametrize("gradient", [True, False])
def test_cm_smc_draws_from_the_exact_posterior(gradient: bool) -> None:
    prior, operator = mixture(steps=24), first_coordinate(0.3)
    y = operator(prior.sample(8, torch.Generator().manual_seed(3)), seed=4)
    moves = 6 if gradient else 12
    solver = inverse.create("cm_smc", prior, gradient=gradient, moves=moves)
    solution = solver.solve(y, operator, 300, 0)
    inside, evidence = [], []
    for draws, one, found in zip(
        solution.draws, y, solution.diagnostics["log_evidence"], strict=True
    ):
        posterior = inverse.ExactPosterior(prior, operator, one)
        exact = posterior.sample(2000, 0)
        low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
        inside.append(((exact >= low) & (exact <= high)).float().mean())
        other = prior.sample(20_000, torch.Generator().manual_seed(1))
        likelihood = operator.noise_model.log_prob(one, operator.A(other))
        evidence.append(found - likelihood.logsumexp(0) + torch.tensor(20_000.0).log())
    assert torch.stack(inside).mean() == pytest.approx(0.9, abs=0.05)
    assert torch.stack(evidence).abs().mean() < 0.3


def test_pgdm_is_exact_for_a_normal_prior() -> None:
    prior = inverse.GaussianMixture(torch.tensor([[1.0, -1.0]]), 1.0)
    operator, y = first_coordinate(0.5), torch.tensor([2.0])
    draws = inverse.create("pgdm", prior, passes=200)(y, operator, 4000, 0)
    mean, variance = inverse.ExactPosterior(prior, operator, y).moments()
    assert draws.mean(0) == pytest.approx(mean, abs=0.08)
    assert draws.var(0) == pytest.approx(variance, abs=0.15)


# --- trained priors ------------------------------------------------------------------------------


def trained(name: str, **given: Any) -> estimators.Posterior:
    """Return an unconditional estimator of three clusters after a few hundred steps."""
    theta = mixture().sample(2000, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = estimators.create(name, theta.numpy(), {}, width=32, depth=2, members=1, **given)
    rate = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        rows = theta[torch.randint(len(theta), (128,))]
        rate.zero_grad()
        model.loss(rows, {}, 0.0).backward()
        rate.step()
    return model.eval().posterior()


def test_an_estimator_without_outputs_is_a_prior() -> None:
    posterior = trained("npse")
    draws = posterior.sample({}, 2000, seed=0)
    assert draws.shape == (1, 2000, 2)
    exact = mixture().sample(2000, torch.Generator().manual_seed(1))
    assert draws[0].mean(0) == pytest.approx(exact.mean(0), abs=0.3)
    prior = inverse.EstimatorPrior(posterior)
    far = inverse.create("pgdm", prior, passes=30)(torch.tensor([-2.0]), first_coordinate(), 50, 0)
    assert (far[:, 0] + 0.5 * far[:, 1]).mean() == pytest.approx(-2.0, abs=0.5)
    with pytest.raises(ValueError, match="method 'cm_guidance' needs a consistency function"):
        inverse.create("cm_guidance", prior)


def test_cmpe_distilled_without_outputs_has_a_consistency_function() -> None:
    posterior = trained("cmpe_distilled")
    prior = inverse.EstimatorPrior(posterior)
    draws = inverse.create("cm_smc", prior, moves=1)(torch.tensor([0.4]), first_coordinate(), 20, 0)
    assert draws.shape == (20, 2)
    assert draws.isfinite().all()


def test_estimators_that_are_no_prior_are_refused() -> None:
    theta, x = torch.rand(50, 2), {"x": torch.rand(50, 3)}
    with pytest.raises(ValueError, match="no denoiser"):
        inverse.EstimatorPrior(estimators.create("nsf", theta, x).posterior())
    with pytest.raises(ValueError, match=r"trained with the outputs \['x'\]"):
        inverse.EstimatorPrior(estimators.create("npse", theta, x).posterior())
    bent = estimators.create("npse", theta, {}, low=[0, 0], high=[1, 1], bounds="probit")
    with pytest.raises(ValueError, match=r"bounds = 'probit'.*valid are a linear scale and bounds"):
        inverse.EstimatorPrior(bent.posterior())


@pytest.mark.parametrize("bounds", ["reflect", "clip"])
def test_draws_of_a_prior_with_bounds_lie_within_them(bounds: str) -> None:
    """A measurement that no parameters have draws them out of their bounds."""
    theta = torch.rand(200, 2)
    model = estimators.create("npse", theta, {}, low=[0, 0], high=[1, 1], bounds=bounds)
    prior = inverse.EstimatorPrior(model.posterior())
    draws = inverse.create("pgdm", prior)(torch.tensor([9.0]), first_coordinate(), 50, 0)
    assert (draws[:, 0] == 1).all()
    assert (draws >= 0).all()


# --- bad input -----------------------------------------------------------------------------------


@inverse.operator(sigma=0.1)
def rounded(theta: Tensor) -> Tensor:
    return theta.detach().round()


@inverse.operator(sigma=0.1)
def broken(theta: Tensor) -> Tensor:
    return theta / (theta.abs() > 0.5)


@inverse.operator(sigma=0.1)
def of_five(theta: Tensor) -> Tensor:
    return theta @ torch.ones(5, 1)


def test_what_cannot_be_solved_is_refused_by_name() -> None:
    dps = inverse.create("dps", mixture(), passes=5)
    y = torch.zeros(2)
    with pytest.raises(
        ValueError, match="operator 'rounded' has no gradient, which method 'dps' needs"
    ):
        dps(y, rounded, 3, 0)
    assert inverse.create("cm_smc", mixture(), gradient=False, moves=1)(y, rounded, 3, 0).shape == (
        3,
        2,
    )
    with pytest.raises(FloatingPointError, match="operator 'broken' gives NaN or infinity for"):
        dps(torch.ones(2), broken, 30, 0)
    with pytest.raises(
        ValueError, match=r"y has shape \(3, 4\); operator 'matrix' measures \(1,\), or"
    ):
        dps(torch.zeros(3, 4), first_coordinate(), 3, 0)
    with pytest.raises(ValueError, match="operator 'of_five' cannot take 2 parameters"):
        dps(torch.zeros(1), of_five, 3, 0)
    with pytest.raises(ValueError, match="y holds NaN"):
        dps(torch.tensor([torch.nan]), first_coordinate(), 3, 0)
    with pytest.raises(ValueError, match="method 'pgdm' is for linear operators"):
        inverse.create("pgdm", mixture(), passes=5)(y, broken, 3, 0)
    with pytest.raises(LookupError, match="unknown method 'dsp'; did you mean 'dps'"):
        inverse.create("dsp", mixture())
    with pytest.raises(TypeError, match="method 'dps' has no argument 'step'"):
        inverse.create("dps", mixture(), step=1.0)
