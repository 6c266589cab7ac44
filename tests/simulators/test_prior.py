"""Joint priors: exact densities, draws, bounds, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from simulators import (
    Independent,
    LogUniform,
    MultivariateNormal,
    Normal,
    Prior,
    TruncatedNormal,
    Uniform,
    prior_from,
)

COVARIANCE = [[1.0, 0.6], [0.6, 2.0]]
PRIORS = {
    "independent": Independent({"mu": Uniform(-3, 3), "sigma": LogUniform(0.1, 2)}),
    "half bounded": Independent({"a": TruncatedNormal(0, 1, low=0.5), "b": Normal(2, 3)}),
    "multivariate": MultivariateNormal(["a", "b"], [1, -1], COVARIANCE),
    "box": MultivariateNormal(["a", "b"], [1, -1], COVARIANCE, low=[0, -2], high=[None, 1]),
    "diagonal box": MultivariateNormal(["a", "b"], [0, 0], np.eye(2), [0, 0], [1, 2]),
}
every = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


@every
def test_draws_lie_in_the_bounds_and_have_a_density(prior: Prior):
    theta = prior.sample(np.random.default_rng(0), 5000)
    assert theta.shape == (5000, 2)
    assert np.all((theta >= prior.low) & (theta <= prior.high))
    assert np.all(np.isfinite(prior.log_prob(theta)))


@every
def test_density_integrates_to_one(prior: Prior):
    centre, scale = np.mean(prior.sample(np.random.default_rng(0), 5000), axis=0), 12
    low = np.maximum(prior.low, centre - 1.5 * scale)
    high = np.minimum(prior.high, centre + 1.5 * scale)
    points, weights = np.polynomial.legendre.leggauss(400)
    axes = [a + (b - a) * (points + 1) / 2 for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.outer(weights, weights).ravel() @ np.exp(prior.log_prob(grid))
    assert mass * np.prod((high - low) / 2) == pytest.approx(1, abs=1e-5)


@every
def test_spec_is_json_and_inverts(prior: Prior):
    again = prior_from(json.loads(json.dumps(prior.spec(), allow_nan=False)))
    assert again == prior
    assert again.names == prior.names
    theta = prior.sample(np.random.default_rng(1), 50)
    np.testing.assert_array_equal(again.log_prob(theta), prior.log_prob(theta))
    np.testing.assert_array_equal(again.sample(np.random.default_rng(1), 50), theta)


def test_spec_of_an_independent_prior_is_the_documented_one():
    assert PRIORS["independent"].spec() == {
        "mu": {"name": "uniform", "low": -3.0, "high": 3.0},
        "sigma": {"name": "log_uniform", "low": 0.1, "high": 2.0},
    }


def test_moments_of_the_multivariate_normal():
    theta = PRIORS["multivariate"].sample(np.random.default_rng(2), 200_000)
    np.testing.assert_allclose(theta.mean(axis=0), [1, -1], atol=0.02)
    np.testing.assert_allclose(np.cov(theta.T), COVARIANCE, atol=0.03)


@pytest.mark.parametrize("name", PRIORS)
def test_quantiles_of_even_points_have_the_prior_s_moments(name: str):
    prior = PRIORS[name]
    if not prior.has_quantile:
        with pytest.raises(NotImplementedError, match="no quantile"):
            prior.quantile(np.full((1, len(prior.names)), 0.5))
        with pytest.raises(NotImplementedError, match="no quantile"):
            prior.cube(np.full((1, len(prior.names)), 0.5))
        return
    even = stats.qmc.Sobol(len(prior.names), rng=0).random(2**15) + 2.0**-31
    theta = prior.quantile(even)
    np.testing.assert_allclose(prior.cube(theta), even, atol=1e-9)
    draws = prior.sample(np.random.default_rng(3), 400_000)
    spread = draws.std(axis=0)
    assert np.all(np.abs(theta.mean(0) - draws.mean(0)) < 0.01 * spread)
    np.testing.assert_allclose(np.cov(theta.T), np.cov(draws.T), atol=0.02 * spread.max() ** 2)


def test_density_of_the_multivariate_normal():
    theta = np.array([[0.0, 0.0], [3.0, -2.0]])
    expected = stats.multivariate_normal([1, -1], COVARIANCE).logpdf(theta)
    np.testing.assert_allclose(PRIORS["multivariate"].log_prob(theta), expected, rtol=1e-12)


def test_mass_of_an_orthant_is_the_known_one():
    """P(a > 0, b > 0) = 1/4 + asin(rho) / 2 pi."""
    prior = MultivariateNormal(["a", "b"], [0, 0], [[1, 0.5], [0.5, 1]], low=[0, 0])
    free = MultivariateNormal(["a", "b"], [0, 0], [[1, 0.5], [0.5, 1]])
    ratio = free.log_prob([[1, 1]]) - prior.log_prob([[1, 1]])
    assert np.exp(ratio[0]) == pytest.approx(0.25 + np.arcsin(0.5) / 2 / np.pi, rel=1e-6)


def test_box_draws_follow_the_density():
    """Against weights of unrestricted draws in a region of the box."""
    theta = PRIORS["box"].sample(np.random.default_rng(3), 100_000)
    free = PRIORS["multivariate"].sample(np.random.default_rng(4), 400_000)
    free = free[np.all((free >= [0, -2]) & (free[:, 1:] <= 1), axis=1)]
    np.testing.assert_allclose(theta.mean(axis=0), free.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(theta.T), np.cov(free.T), atol=0.02)


def test_the_columns_follow_the_names():
    prior = Independent({"b": Uniform(10, 11), "a": Uniform(0, 1)})
    assert prior.names == ("b", "a")
    np.testing.assert_array_equal(prior.low, [10, 0])
    np.testing.assert_array_equal(prior.high, [11, 1])
    assert prior.sample(np.random.default_rng(0), 3)[:, 0].min() >= 10
    assert prior != Independent({"a": Uniform(0, 1), "b": Uniform(10, 11)})


def test_a_prior_is_taken_as_it_is():
    assert prior_from(PRIORS["box"]) is PRIORS["box"]


def test_distributions_and_specs_mix():
    mixed = prior_from({"a": Uniform(0, 1), "b": {"name": "normal", "mean": 0, "std": 1}})
    assert mixed == Independent({"a": Uniform(0, 1), "b": Normal(0, 1)})


def test_a_parameter_may_be_called_name():
    spec = {"name": {"name": "uniform", "low": 0, "high": 1}}
    assert prior_from(spec).names == ("name",)


def test_theta_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(n, 2\), columns mu, sigma; got shape \(3,\)"):
        PRIORS["independent"].log_prob(np.zeros(3))


@pytest.mark.parametrize(
    ("build", "kind", "said"),
    [
        (lambda: Independent({}), ValueError, "at least one"),
        (lambda: Independent({"mu": Uniform(3, -3)}), ValueError, "'mu'.*low < high"),
        (lambda: Independent({"mu": 3}), TypeError, "'mu' must be a distribution.*got 3"),
        (lambda: Independent({"a b": Uniform(0, 1)}), ValueError, "'a b'.*identifier"),
        (lambda: Independent({"rng": Uniform(0, 1)}), ValueError, "'rng'"),
        (lambda: prior_from([1, 2]), TypeError, "must map parameter names"),
        (
            lambda: prior_from({"name": "normal_2"}),
            ValueError,
            "'normal_2'; valid: dirichlet, multivariate",
        ),
        (
            lambda: prior_from({"name": "multivariate_normal", "names": ["a"], "mean": [0]}),
            ValueError,
            "lacks the key 'covariance'",
        ),
        (
            lambda: prior_from({"name": "multivariate_normal", "cov": 1}),
            ValueError,
            "no key 'cov'; valid: name, names, mean, covariance, low, high",
        ),
        (lambda: MultivariateNormal(["a", "a"], [0, 0], COVARIANCE), ValueError, "must differ"),
        (lambda: MultivariateNormal(["a", "b"], [0], COVARIANCE), ValueError, r"mean.*\(2,\)"),
        (lambda: MultivariateNormal(["a"], ["x"], [[1]]), TypeError, "mean must be numbers"),
        (lambda: MultivariateNormal(["a"], [0], [[np.inf]]), ValueError, "covariance.*finite"),
        (
            lambda: MultivariateNormal(["a", "b"], [0, 0], [[1, 0.5], [0.4, 1]]),
            ValueError,
            "symmetric",
        ),
        (
            lambda: MultivariateNormal(["a", "b"], [0, 0], [[1, 2], [2, 1]]),
            ValueError,
            "positive definite",
        ),
        (
            lambda: MultivariateNormal(["a", "b"], [0, 0], COVARIANCE, [0, 1], [1, 1]),
            ValueError,
            "'b': needs low < high",
        ),
        (
            lambda: MultivariateNormal(["a", "b"], [0, 0], COVARIANCE, low=[0]),
            ValueError,
            "low must have 2 entries, got 1",
        ),
        (
            lambda: MultivariateNormal(["a", "b"], [0, 0], COVARIANCE, low=[8, None]),
            ValueError,
            "rejection needs 0.001",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(build, kind, said):
    with pytest.raises(kind, match=said):
        build()
