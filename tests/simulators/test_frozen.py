"""Priors of scipy.stats and torch: the same draws and densities, a JSON form, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import scipy.stats
import torch

from simulators import LogNormal, Normal, Uniform, prior_from


def test_a_frozen_distribution_is_a_prior() -> None:
    gamma, wide = scipy.stats.gamma(2.0, scale=3.0), scipy.stats.loguniform(0.1, 2)
    prior = prior_from({"a": gamma, "b": wide, "c": Uniform(0, 1)})
    assert prior.scales == ("linear", "log", "linear")
    assert prior.low.tolist() == [0, 0.1, 0]
    theta = prior.sample(np.random.default_rng(0), 500)
    assert scipy.stats.kstest(theta[:, 0], gamma.cdf).pvalue > 0.01
    assert np.allclose(prior.log_prob(theta), gamma.logpdf(theta[:, 0]) + wide.logpdf(theta[:, 1]))
    assert np.allclose(prior.quantile(prior.cube(theta)), theta)
    assert prior_from(json.loads(json.dumps(prior.spec()))) == prior
    assert pickle.loads(pickle.dumps(prior)) == prior


def test_distributions_of_torch() -> None:
    kinds = torch.distributions
    given = {
        "a": kinds.Uniform(-1.0, 2.0),
        "b": kinds.Normal(1.0, 3.0),
        "c": kinds.LogNormal(0.0, 1.0),
    }
    ours = {"a": Uniform(-1, 2), "b": Normal(1, 3), "c": LogNormal(0, 1)}
    assert prior_from(given) == prior_from(ours)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            scipy.stats.poisson(3),
            "prior of 'k': poisson is discrete; valid discrete ones: Integer",
        ),
        (torch.distributions.Poisson(torch.tensor(3.0)), "torch's Poisson is discrete"),
        (
            torch.distributions.Gamma(1.0, 1.0),
            "of torch's distributions Normal, LogNormal, Uniform",
        ),
        (torch.distributions.Normal(torch.zeros(2), torch.ones(2)), r"got shape \(2,\)"),
    ],
)
def test_what_cannot_be_a_prior_is_told(value: object, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        prior_from({"k": value})


def test_wrong_numbers_are_told() -> None:
    with pytest.raises(ValueError, match="has no continuous distribution 'gama'"):
        prior_from({"a": {"name": "scipy", "distribution": "gama"}})
    with pytest.raises(ValueError, match="prior of 'a'"):
        prior_from({"a": {"name": "scipy", "distribution": "gamma", "a": -1}})
