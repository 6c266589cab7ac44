"""sbibm's tasks: moments, likelihoods by hand, differential equations, references by other means."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad, solve_ivp

import simulators
from simulators import bernoulli_glm as glm
from simulators import slcp_distractors as distractors
from simulators.slcp import slcp
from simulators.two_species import solve

LOG = {"sir", "lotka_volterra"}  # parameters are positive


def observation(name: str, seed: int):
    simulator, rng = simulators.load(name), np.random.default_rng(seed)
    theta = simulator.prior.sample(rng, 1)[0]
    return simulator, theta, simulator.simulate(theta, rng)


def importance_draws(name: str, simulator, x, draws, n: int):
    """Draws by importance resampling from a wide t-distribution around given draws, and their size."""
    to, back = (np.log, np.exp) if name in LOG else (np.copy, np.copy)
    centre, spread = to(draws).mean(axis=0), np.cov(to(draws).T)
    proposal = stats.multivariate_t(centre, 1.3 * spread, df=5)
    v = proposal.rvs(10_000, random_state=np.random.default_rng(0))
    theta, jacobian = back(v), v.sum(axis=1) if name in LOG else 0
    log_weight = simulator.prior.log_prob(theta) + simulator.log_likelihood(theta, x)
    log_weight += jacobian - proposal.logpdf(v)
    weight = np.exp(log_weight - log_weight.max())
    size = weight.sum() ** 2 / np.sum(weight**2)
    return theta[np.random.default_rng(1).choice(len(v), n, p=weight / weight.sum())], size


@pytest.mark.parametrize("name", ["bernoulli_glm", "sir", "lotka_volterra"])
def test_reference_against_importance_resampling(name):
    n = 800
    simulator, theta, x = observation(name, 3)
    module = importlib.import_module(f"simulators.{name}")
    draws, diagnosis = module.posterior(x, n, np.random.default_rng(1))
    assert diagnosis.r_hat < 1.02
    assert diagnosis.effective_size > 0.95 * n
    assert diagnosis.acceptance > 0.2
    other, size = importance_draws(name, simulator, x, draws, n)
    assert size > 3000
    tolerance = 2.2 * np.sqrt(1 / size + 2 / n)  # Kolmogorov-Smirnov, level 1e-4
    centre, scale = other.mean(axis=0), other.std(axis=0)
    draws, other = (draws - centre) / scale, (other - centre) / scale
    for direction in [*np.eye(len(theta)), *np.random.default_rng(2).normal(size=(6, len(theta)))]:
        assert stats.ks_2samp(draws @ direction, other @ direction).statistic < tolerance


def test_raw_spikes_have_the_posterior_of_their_statistics():
    simulator, theta, x = observation("bernoulli_glm_raw", 0)
    assert set(np.unique(x["x"])) == {0.0, 1.0}
    short = {"x": x["x"] @ glm.DESIGN}
    statistics = simulators.load("bernoulli_glm")
    draws = [
        s.reference(o, 50, np.random.default_rng(1))
        for s, o in [(simulator, x), (statistics, short)]
    ]
    np.testing.assert_array_equal(*draws)
    share = 1 / (1 + np.exp(-glm.DESIGN @ theta))
    expected = stats.bernoulli.logpmf(x["x"], share).sum()
    np.testing.assert_allclose(simulator.log_likelihood(theta[None], x), expected, rtol=1e-10)
    np.testing.assert_allclose(statistics.log_likelihood(theta[None], short), expected, rtol=1e-10)


def test_bernoulli_glm_statistics():
    """Moments at one theta, the delays of the current, and the prior's precision."""
    simulator = simulators.load("bernoulli_glm")
    theta = np.array([0.3, 1.0, -0.5, 0.2, 0.1, 0, 0.4, -1, 0.6, 0.5])
    x = simulator.simulate_block(np.tile(theta, (20_000, 1)), np.random.default_rng(0))["x"]
    share = 1 / (1 + np.exp(-glm.DESIGN @ theta))
    cov = glm.DESIGN.T @ np.diag(share * (1 - share)) @ glm.DESIGN
    error = np.sqrt(np.diag(cov) / len(x))
    assert np.abs((x.mean(axis=0) - glm.DESIGN.T @ share) / error).max() < 4.5
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.05 * np.diag(cov).max())
    current = glm.DESIGN[:, 1]
    np.testing.assert_allclose(current[:2], [0.49671415, -0.1382643], rtol=1e-7)
    np.testing.assert_array_equal(glm.DESIGN[5:, 6], current[:95])
    assert np.all(glm.DESIGN[:5, 6] == 0)
    precision = np.linalg.inv(simulator.prior.covariance)
    assert precision[0, 0] == pytest.approx(0.5)
    f = np.random.default_rng(1).normal(size=9)
    before, earlier = np.concatenate([[0], f[:-1]]), np.concatenate([[0, 0], f[:-2]])
    rough = f - 2 * before + earlier + np.sqrt(np.arange(9) / 9) * f  # second differences
    assert f @ precision[1:, 1:] @ f == pytest.approx(np.sum(rough**2), rel=1e-6)


@pytest.mark.parametrize("name", ["sir", "lotka_volterra"])
def test_differential_equations_against_scipy(name):
    """Within 1e-6 of solve_ivp, at draws of the prior and where rates are far apart."""
    module, prior = importlib.import_module(f"simulators.{name}"), simulators.load(name).prior
    theta = prior.sample(np.random.default_rng(0), 7)
    corners = np.array(
        [[3, 3, 3, 3], [-3, 3, 3, 3], [3, -2, 3, -2], [3, 3, -3, 3], [-3, -3, 3, -3]]
    )
    far = np.exp(module.MEAN + module.STD * corners[:, : theta.shape[1]])
    for row in np.concatenate([theta, far]):
        if name == "sir":
            beta, gamma = row
            rates, start = [0, beta, gamma, beta], (1 - 1e-6, 1e-6)
        else:
            alpha, beta, gamma, delta = row
            rates, start = [alpha, beta, gamma, delta], (30.0, 1.0)
        a, b, c, d = rates
        truth = solve_ivp(
            lambda t, y, a=a, b=b, c=c, d=d: [y[0] * (a - b * y[1]), y[1] * (d * y[0] - c)],
            (0, module.TIMES[-1]),
            start,
            method="DOP853",
            t_eval=module.TIMES,
            rtol=1e-12,
            atol=1e-30,
        ).y
        found = solve(start, np.array([rates]), module.TIMES)[0]
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-16)  # 1e-10 is clipped


def test_without_meetings_both_species_are_exponential():
    times = np.array([0.0, 1.0, 2.5])
    u, v = solve((2.0, 3.0), np.array([[0.4, 0.0, 0.7, 0.0]]), times)[0]
    np.testing.assert_allclose(u, 2 * np.exp(0.4 * times), rtol=1e-7)
    np.testing.assert_allclose(v, 3 * np.exp(-0.7 * times), rtol=1e-7)


def test_sir_counts_and_likelihood():
    simulator, module = simulators.load("sir"), importlib.import_module("simulators.sir")
    theta = np.array([[0.4, 0.125]])
    share = module.infected(theta)[0]
    assert module.TIMES.tolist() == [0, 17, 34, 51, 68, 85, 102, 119, 136, 153]
    assert share[0] == pytest.approx(1e-6)
    x = simulator.simulate_block(np.tile(theta, (4000, 1)), np.random.default_rng(0))["x"]
    assert x.shape == (4000, 10)
    error = np.sqrt(1000 * share * (1 - share) / 4000)
    assert np.all(np.abs(x.mean(axis=0) - 1000 * share) < 4.5 * error + 1e-12)
    np.testing.assert_allclose(x.var(axis=0), 1000 * share * (1 - share), rtol=0.12, atol=0.02)
    expected = stats.binom.logpmf(x[0], 1000, share).sum()
    found = simulator.log_likelihood(theta, {"x": x[0]})
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_lotka_volterra_counts_and_likelihood():
    """Prey come first, at ten times from 0 on, then predators; the noise is log-normal."""
    simulator = simulators.load("lotka_volterra")
    module = importlib.import_module("simulators.lotka_volterra")
    theta = np.array([[0.6, 0.03, 0.9, 0.03]])
    x = simulator.simulate_block(np.tile(theta, (4000, 1)), np.random.default_rng(0))["x"]
    assert x.shape == (4000, 20)
    truth = module.log_numbers(theta)[0]
    np.testing.assert_allclose(np.exp(truth[[0, 10]]), [30, 1])
    np.testing.assert_allclose(np.log(x).mean(axis=0), truth, atol=0.1 * 4.5 / np.sqrt(4000))
    np.testing.assert_allclose(np.log(x).std(axis=0), 0.1, rtol=0.06)
    expected = stats.lognorm.logpdf(x[0], s=0.1, scale=np.exp(truth)).sum()
    np.testing.assert_allclose(simulator.log_likelihood(theta, {"x": x[0]}), expected, rtol=1e-10)


def test_gaussian_linear_uniform():
    simulator = simulators.load("gaussian_linear_uniform", dim=3)
    rng = np.random.default_rng(0)
    theta = simulator.prior.sample(rng, 50_000)
    x = simulator.simulate_block(theta, rng)["x"]
    assert np.all(np.abs(theta) <= 1)
    np.testing.assert_allclose((x - theta).var(axis=0), 0.1, rtol=0.04)
    one = {"x": np.array([0.2, -0.9, 1.7])}
    normal = stats.multivariate_normal(cov=0.1 * np.eye(3))
    expected = normal.logpdf(one["x"] - theta[:4])
    np.testing.assert_allclose(simulator.log_likelihood(theta[:4], one), expected, rtol=1e-12)
    draws = simulator.reference(one, 20_000, rng)
    std = np.sqrt(0.1)
    for column, centre in zip(draws.T, one["x"], strict=True):
        law = stats.truncnorm((-1 - centre) / std, (1 - centre) / std, centre, std)
        assert stats.kstest(column, law.cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    with pytest.raises(
        ValueError, match="gaussian_linear_uniform: dim must be a whole number >= 1"
    ):
        simulators.load("gaussian_linear_uniform", dim=0)


@pytest.mark.parametrize("x", [(1.0, -4.0), (9.8, 10.3)], ids=["inside", "border"])
def test_gaussian_mixture_uniform_reference(x):
    """Marginals by integration: each component's weight is its mass in the box."""
    simulator = simulators.load("gaussian_mixture_uniform")
    draws = simulator.reference({"x": np.array(x)}, 20_000, np.random.default_rng(0))
    assert np.all(np.abs(draws) <= 10)

    def density(first, second):
        theta = np.column_stack([first, second])
        return np.exp(simulator.log_likelihood(theta, {"x": np.array(x)}))

    fine = np.concatenate([c + w * np.linspace(-1, 1, 401) for c in x for w in (0.6, 6)])
    axis = np.unique(np.clip(fine, -10, 10))
    second = np.linspace(-10, 10, 4001)
    marginal = [np.trapezoid(density(np.full(4001, v), second), second) for v in axis]
    cdf = np.concatenate(
        [[0], np.cumsum(np.diff(axis) * 0.5 * (np.add(marginal[1:], marginal[:-1])))]
    )
    found = stats.kstest(draws[:, 0], lambda v: np.interp(v, axis, cdf / cdf[-1]))
    assert found.pvalue > 1e-4
    inside = quad(lambda v: density(v, x[1])[0], -10, 10, points=[x[0]] if x[0] < 10 else None)
    assert inside[0] > 0


def test_gaussian_mixture_uniform_moments_and_likelihood():
    simulator = simulators.load("gaussian_mixture_uniform")
    theta = np.tile([[3.0, -7.0]], (40_000, 1))
    x = simulator.simulate_block(theta, np.random.default_rng(0))["x"]
    noise = x - theta
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(noise.var(axis=0), 0.5 * 1.01, rtol=0.04)
    square = noise**2
    both = np.mean(square[:, 0] * square[:, 1])  # one component for both coordinates
    assert both == pytest.approx(0.5 * (1 + 1e-4), rel=0.06)
    halves = [stats.multivariate_normal([3, -7], std**2 * np.eye(2)).pdf(x[0]) for std in (1, 0.1)]
    found = simulator.log_likelihood(theta[:1], {"x": x[0]})
    np.testing.assert_allclose(found, np.log(np.mean(halves)), rtol=1e-12)


def test_slcp_distractors_hide_slcp():
    """The informative outputs are those of slcp; the posterior does not see the others."""
    simulator, theta, x = observation("slcp_distractors", 0)
    assert x["x"].shape == (100,)
    rows = np.tile(theta, (3, 1))
    both = simulator.simulate_block(rows, np.random.default_rng(5))["x"]
    alone = slcp.simulate_block(rows, np.random.default_rng(5))["x"]
    np.testing.assert_array_equal(both[:, distractors.informative()], alone)
    points = {"x": x["x"][distractors.informative()]}
    found = simulator.reference(x, 50, np.random.default_rng(1))
    np.testing.assert_array_equal(found, slcp.reference(points, 50, np.random.default_rng(1)))


def test_slcp_distractors_noise():
    """Projections of the noise have the marginals of the mixture of t-distributions."""
    places, factors, _ = distractors._task()
    d = distractors._distractors(20_000, np.random.default_rng(0))
    for direction in [np.eye(92)[0], np.eye(92)[91], np.random.default_rng(1).normal(size=92)]:
        centres = places @ direction
        scales = np.linalg.norm(direction @ factors, axis=1)

        def cdf(v, centres=centres, scales=scales):
            return stats.t.cdf((v[:, None] - centres) / scales, df=2).mean(axis=1)

        assert stats.kstest(d @ direction, cdf).pvalue > 1e-4


def test_slcp_distractors_likelihood_is_that_of_slcp():
    simulator, theta, x = observation("slcp_distractors", 1)
    order = distractors._task()[2]
    both = np.empty(100)
    both[order] = x["x"]
    expected = slcp.log_likelihood(theta[None], {"x": both[:8]})
    np.testing.assert_array_equal(simulator.log_likelihood(theta[None], x), expected)
