"""Whole numbers, categories, shares of a whole, and independent groups as priors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from simulators import (
    Categorical,
    Dirichlet,
    Independent,
    Integer,
    MultivariateNormal,
    Normal,
    Prior,
    Product,
    prior_from,
    simulator,
)

MIXED = Independent({"k": Integer(2, 5), "c": Categorical([0.2, 0.8]), "a": Normal(0, 1)})
SHARES = Product([MultivariateNormal(["m", "n"], [0, 0], np.eye(2)), Dirichlet("pqr", [1, 2, 3])])


@pytest.mark.parametrize("prior", [MIXED, SHARES, Dirichlet("ab", [1, 1])], ids=type)
def test_spec_is_json_and_inverts(prior: Prior) -> None:
    again = prior_from(json.loads(json.dumps(prior.spec())))
    assert again == prior
    assert (again.kinds, again.simplexes) == (prior.kinds, prior.simplexes)
    theta = prior.sample(np.random.default_rng(0), 100)
    assert np.array_equal(theta, again.sample(np.random.default_rng(0), 100))
    assert np.isfinite(prior.log_prob(theta)).all()


def test_draws_have_the_probabilities() -> None:
    theta = MIXED.sample(np.random.default_rng(0), 20_000)
    assert MIXED.kinds == ("integer", "category", "continuous")
    values, counts = np.unique(theta[:, 0], return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    assert counts / len(theta) == pytest.approx(np.full(4, 0.25), abs=0.015)
    assert theta[:, 1].mean() == pytest.approx(0.8, abs=0.015)
    row = np.array([[3, 1, 0.5], [3.5, 1, 0.5], [6, 1, 0.5], [3, 2, 0.5]])
    log_prob = MIXED.log_prob(row)
    assert log_prob[0] == pytest.approx(np.log(0.25 * 0.8) + scipy.stats.norm.logpdf(0.5))
    assert np.isneginf(log_prob[1:]).all()
    column = Categorical((0.2, 0.8))
    assert np.array_equal(column.quantile(column.cdf(np.array([0.0, 1.0]))), [0, 1])
    assert not MIXED.has_quantile


def test_the_density_of_shares_is_that_of_scipy() -> None:
    theta = SHARES.sample(np.random.default_rng(0), 50)
    assert SHARES.simplexes == ((2, 3, 4),)
    expected = scipy.stats.multivariate_normal(np.zeros(2)).logpdf(theta[:, :2])
    expected += [scipy.stats.dirichlet.logpdf(row, [1, 2, 3]) for row in theta[:, 2:]]
    assert SHARES.log_prob(theta) == pytest.approx(expected)
    assert np.isneginf(SHARES.log_prob(theta + 0.1)).all()


def test_a_model_gets_whole_numbers() -> None:
    seen = []

    @simulator(prior={"k": Integer(0, 3), "a": Normal(0, 1)})
    def one(k: int, a: float) -> dict[str, Any]:
        seen.append(type(k))
        return {"x": np.zeros(2) + a + len(range(k))}

    @simulator(prior={"k": Integer(0, 3), "a": Normal(0, 1)}, batched=True)
    def many(k: Any, a: Any) -> dict[str, Any]:
        return {"x": np.eye(4)[k] + a[:, None]}

    assert one(k=2, a=0.5)["x"].tolist() == [2.5, 2.5]
    assert seen == [int]
    assert many(k=1, a=0.0)["x"].tolist() == [0, 1, 0, 0]


def test_distributions_of_other_packages() -> None:
    assert prior_from({"k": scipy.stats.randint(1, 7)}).spec()["k"] == Integer(1, 6).spec()
    prior = prior_from({"k": scipy.stats.bernoulli(0.25)})
    assert prior.spec()["k"] == {"name": "categorical", "probabilities": [0.75, 0.25]}
    shares = torch.tensor([0.25, 0.75])
    assert prior_from({"k": torch.distributions.Categorical(shares)}).kinds == ("category",)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"k": Integer(3, 3)}, "'k': integer needs whole numbers low < high"),
        ({"k": Integer(0.5, 3)}, "'k': integer needs whole numbers"),  # type: ignore[arg-type]
        ({"k": Integer(0, 5000)}, "at most 1000 values"),
        ({"k": Categorical([0.5, 0.6])}, "'k': categorical needs 2 to 1000 positive probabilities"),
        ({"k": {"name": "categorical", "probabilities": "half"}}, "must be a list of numbers"),
        ({"name": "dirichlet", "names": ["a"], "concentration": [1]}, "at least two names"),
        ({"name": "dirichlet", "names": ["a", "b"], "concentration": [1, 0]}, "must be positive"),
        ({"name": "dirichlet", "names": ["a", "b"], "low": 1}, "no key 'low'"),
        ({"name": "product", "parts": [{"a": Normal(0, 1)}, {"a": Normal(0, 1)}]}, "must differ"),
    ],
)
def test_wrong_priors_are_told(spec: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        prior_from(spec)
