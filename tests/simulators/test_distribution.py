"""Distributions of one parameter: densities integrate to one, draws follow them, specs invert."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from simulators import LogNormal, LogUniform, Normal, TruncatedNormal, Uniform
from simulators.distribution import Distribution
from simulators.distribution_spec import distribution_from

CASES = [
    (Uniform(-3, 3), stats.uniform(-3, 6)),
    (LogUniform(0.1, 2), stats.loguniform(0.1, 2)),
    (Normal(1, 2), stats.norm(1, 2)),
    (LogNormal(0.5, 0.8), stats.lognorm(0.8, scale=math.exp(0.5))),
    (TruncatedNormal(1, 2, 0, 4), stats.truncnorm(-0.5, 1.5, 1, 2)),
    (TruncatedNormal(0, 1, low=2), stats.truncnorm(2, np.inf)),
    (TruncatedNormal(0, 1, high=-1), stats.truncnorm(-np.inf, -1)),
    (TruncatedNormal(0, 1), stats.norm()),
]
each = pytest.mark.parametrize(("mine", "theirs"), CASES, ids=lambda d: str(d)[:40])


@each
def test_log_prob_is_the_normalised_density(mine, theirs):
    low, high = mine.support
    inner = theirs.ppf(np.linspace(0.01, 0.99, 23))
    np.testing.assert_allclose(mine.log_prob(inner), theirs.logpdf(inner), rtol=1e-9, atol=1e-12)
    a, b = theirs.ppf([1e-14, 1 - 1e-14])
    a, b = max(a, low), min(b, high)
    mass, _ = quad(lambda v: float(np.exp(mine.log_prob(v))), a, b, limit=200)
    assert mass == pytest.approx(1, abs=1e-6)


@each
def test_density_vanishes_outside_the_support(mine, theirs):
    low, high = mine.support
    for outside in (low - 0.1, high + 0.1):
        if math.isfinite(outside):
            assert mine.log_prob(outside) == -np.inf


@each
def test_draws_follow_the_distribution(mine, theirs):
    draws = mine.sample(np.random.default_rng(0), 20_000)
    assert draws.shape == (20_000,)
    assert np.all((draws >= mine.support[0]) & (draws <= mine.support[1]))
    assert stats.kstest(draws, theirs.cdf).pvalue > 1e-3


@each
def test_quantiles_increase_and_are_those_of_the_distribution(mine, theirs):
    u = np.array([2.0**-33, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 2.0**-33])
    values = mine.quantile(u)
    np.testing.assert_allclose(values, theirs.ppf(u), rtol=1e-6, atol=1e-9)
    assert np.all(np.diff(values) > 0)
    assert np.array_equal(mine.quantile(u), values)  # the shares stay as they are


@each
def test_shares_below_are_those_of_the_distribution_and_invert_quantiles(mine, theirs):
    u = np.array([2.0**-33, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 2.0**-33])
    values = mine.quantile(u)
    np.testing.assert_allclose(mine.cdf(values), theirs.cdf(values), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(mine.cdf(values), u, rtol=1e-6, atol=1e-12)
    bounds = [bound for bound in mine.support if math.isfinite(bound) and bound > 0]
    assert all(mine.cdf(np.array([bound])) in (0, 1) for bound in bounds)


@each
def test_spec_is_json_and_inverts(mine, theirs):
    assert distribution_from("mu", json.loads(json.dumps(mine.spec(), allow_nan=False))) == mine


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bound", [5.0, 12.0, 37.0, 300.0])
def test_shares_below_far_in_a_tail(bound, sign):
    mine = TruncatedNormal(0, 1, **({"low": bound} if sign > 0 else {"high": -bound}))
    u = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(mine.cdf(mine.quantile(u)), u, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bound", [5.0, 12.0, 37.0, 300.0])
def test_truncated_normal_far_in_a_tail(bound, sign):
    """Beyond a far bound c the excess is exponential with rate c: mean 1/c - 2/c^3 + ..."""
    bounds = {"low": bound} if sign > 0 else {"high": -bound}
    tail = TruncatedNormal(0, 1, **bounds)
    draws = sign * tail.sample(np.random.default_rng(1), 50_000)
    mean = stats.truncnorm.mean(bound, np.inf)
    assert draws.min() >= bound
    assert draws.mean() - bound == pytest.approx(mean - bound, rel=0.02)
    expected = -0.5 * bound**2 - 0.5 * math.log(2 * math.pi) - stats.norm.logsf(bound)
    assert tail.log_prob(sign * bound) == pytest.approx(expected, rel=1e-12)
    assert len(np.unique(draws)) > 49_000


@pytest.mark.parametrize("centre", [0.0, 3.0, -20.0])
@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4, 1e-8])
def test_truncated_normal_in_a_narrow_interval(centre, width):
    narrow = TruncatedNormal(0, 1, centre - width / 2, centre + width / 2)
    points, weights = np.polynomial.legendre.leggauss(20)
    mass = 0.5 * width * weights @ np.exp(narrow.log_prob(centre + 0.49999 * width * points))
    assert mass == pytest.approx(1, rel=1e-4)
    draws = narrow.sample(np.random.default_rng(2), 2000)
    assert abs(draws - centre).max() <= width / 2 * (1 + 1e-6)
    slope = (draws.mean() - centre) / width**2  # expanding exp(-v^2/2): mean = c - c w^2 / 12
    assert slope == pytest.approx(-centre / 12, abs=5 / width / math.sqrt(12 * 2000) + 1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        Uniform(3, -3),
        Uniform(1, 1),
        Uniform(0, math.inf),
        LogUniform(0, 1),
        LogUniform(-1, 1),
        LogUniform(2, 1),
        Normal(0, 0),
        Normal(0, -1),
        Normal(math.inf, 1),
        LogNormal(0, -2),
        TruncatedNormal(0, 1, 2, 1),
        TruncatedNormal(0, -1, 0, 1),
        Uniform(math.nan, 1),
    ],
    ids=str,
)
def test_bad_numbers_name_the_parameter_and_the_values(bad: Distribution):
    with pytest.raises(ValueError, match="'mu'"):
        bad.check("mu")


@pytest.mark.parametrize("value", ["1e-3", True, None, [1]])
def test_what_is_not_a_number_names_parameter_key_and_value(value):
    with pytest.raises(TypeError, match=r"'mu': low must be a number, got ") as error:
        distribution_from("mu", {"name": "uniform", "low": value, "high": 3})
    assert repr(value) in str(error.value)


def test_text_that_yaml_did_not_read_as_a_number_gets_a_hint():
    with pytest.raises(TypeError, match=r"1\.0e-3"):
        distribution_from("mu", {"name": "uniform", "low": "1e-3", "high": 3})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"low": -3, "high": 3}, "'mu' lacks the key 'name'; valid: categorical, integer, log_n"),
        ({"name": "unifrom", "low": 0, "high": 1}, "unknown distribution 'unifrom'; valid: "),
        ({"name": "uniform", "low": 0, "high": 1, "hi": 2}, "no key 'hi'; valid: name, low, high"),
        ({"name": "uniform", "low": 0}, "uniform needs low, high"),
        ({"name": "uniform", "low": 3, "high": -3}, "'mu': uniform needs finite low < high"),
    ],
)
def test_a_bad_spec_says_what_is_valid(spec, said):
    with pytest.raises(ValueError, match=said):
        distribution_from("mu", spec)
