"""The joint estimator: every conditional of a normal distribution, by an exact denoiser and by training."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import estimators
import simulators
from benchmarks.fit import batch, train
from estimators import testing
from estimators.joint.estimator import Joint, JointSettings
from estimators.joint.graph import adjacency
from estimators.joint.network import JointTransformer
from estimators.joint.states import ABSENT, CONDITION, TARGET, RandomStates
from estimators.posterior import Posterior
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks

SMALL: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "frequencies": 2}
COVARIANCE = torch.tensor(  # of theta_1, theta_2, x_1, x_2 in standard units
    [[1.0, 0.3, 0.6, 0.2], [0.3, 1.0, 0.1, 0.5], [0.6, 0.1, 1.0, 0.4], [0.2, 0.5, 0.4, 1.0]]
)
DRAWS = 10_000
HYPERPARAMETERS = Hyperparameters(
    steps=100,
    learning_rate=3e-3,
    weight_decay=1e-4,
    warmup=0.02,
    clip=5.0,
    ema=0.99,
    validate_every=100,
    patience=None,
    amp=False,
    seed=0,
)


class Exact(Joint):
    """The denoiser of a normal distribution with the covariance above."""

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        values, states = self.summary.split(context)
        count = noisy.shape[1]
        target, known = states[0] == TARGET, states[0] == CONDITION
        prior = COVARIANCE[target][:, target]
        gain = COVARIANCE[target][:, known] @ COVARIANCE[known][:, known].inverse()
        mean = values[:, known] @ gain.T
        rest = prior - gain @ COVARIANCE[known][:, target]
        share = rest @ (rest + t.square() * torch.eye(len(rest))).inverse()
        found = values.clone()
        found[:, target] = mean + (noisy[:, target[:count]] - mean) @ share.T
        return found[:, :count]


@pytest.fixture(scope="module")
def exact() -> Posterior:
    """Parameters have the scales 1 and 2 and the means 0 and 1; outputs the scale 3."""
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal(np.zeros(4), COVARIANCE.double().numpy(), 10)
    theta, x = rows[:, :2], {"x": rows[:, 2:]}
    problem = estimators.create("joint", theta, x, **SMALL, names=["a", "b"]).problem
    model = Exact(problem, JointSettings(**SMALL, sampling_steps=30)).eval()
    model.name = "joint"
    model.transform.standard.mean.copy_(torch.tensor([0.0, 1.0]))
    model.transform.standard.scale.copy_(torch.tensor([1.0, 2.0]))
    model.summary.identity.standard.scale.fill_(3.0)
    return model.posterior()


def normal(wanted: list[int], known: list[int], values: list[float]) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of variables given others, in standard units."""
    gain = COVARIANCE[wanted][:, known] @ COVARIANCE[known][:, known].inverse()
    mean = gain @ torch.tensor(values)
    return mean, COVARIANCE[wanted][:, wanted] - gain @ COVARIANCE[known][:, wanted]


def check_moments(draws: Tensor, mean: Tensor, covariance: Tensor, atol: float = 0.04) -> None:
    assert torch.allclose(draws.mean(0), mean, atol=atol)
    assert torch.allclose(draws.T.cov().reshape(covariance.shape), covariance, atol=atol)


def test_the_posterior_of_an_exact_denoiser(exact: Posterior) -> None:
    draws = exact.sample({"x": [3.0, -1.5]}, DRAWS, seed=0)
    mean, covariance = normal([0, 1], [2, 3], [1.0, -0.5])
    check_moments((draws - torch.tensor([0.0, 1.0])) / torch.tensor([1.0, 2.0]), mean, covariance)


def test_a_parameter_given_another(exact: Posterior) -> None:
    draws = exact.sample({"x": [3.0, -1.5]}, DRAWS, given={"b": 2.0}, seed=0)
    assert (draws[:, 1] == 2.0).all()
    mean, covariance = normal([0], [1, 2, 3], [0.5, 1.0, -0.5])
    check_moments(draws[:, :1], mean, covariance)


@pytest.mark.parametrize("given", [None, {"b": 2.0}])
def test_absent_outputs(exact: Posterior, given: dict | None) -> None:
    draws = exact.sample({"x": [np.nan, -1.5]}, DRAWS, given=given, seed=0)
    known, values = ([1, 3], [0.5, -0.5]) if given else ([3], [-0.5])
    mean, covariance = normal([0], known, values)
    check_moments(draws[:, :1], mean, covariance)


def test_no_output_at_all_leaves_the_prior(exact: Posterior) -> None:
    draws = exact.sample({}, DRAWS, seed=0)
    check_moments(draws[:, :1], torch.zeros(1), torch.ones(1, 1))
    assert torch.equal(draws, exact.sample({"x": [np.nan, np.nan]}, DRAWS, seed=0))


def test_the_likelihood(exact: Posterior) -> None:
    theta = [[0.5, 2.0], [0.5, 2.0]]
    x = exact.emulate(theta, DRAWS, seed=0)["x"]
    assert x.shape == (2, DRAWS, 2)
    mean, covariance = normal([2, 3], [0, 1], [0.5, 0.5])
    check_moments(x[0] / 3, mean, covariance)
    assert exact.emulate(theta[0], 3, seed=0)["x"].shape == (3, 2)
    observed = np.array([[1.0, 2.0], [-3.0, 0.5]])
    density = torch.distributions.MultivariateNormal(3 * mean, 9 * covariance)
    wanted = density.log_prob(torch.tensor(observed).float())
    assert torch.allclose(exact.log_likelihood(theta, {"x": observed}), wanted, atol=0.02)
    one = exact.log_likelihood(theta[0], {"x": [np.nan, 2.0]})
    alone = torch.distributions.Normal(3 * mean[1], 3 * covariance[1, 1].sqrt())
    assert one == pytest.approx(float(alone.log_prob(torch.tensor(2.0))), abs=0.02)


def test_the_density_of_parameters(exact: Posterior) -> None:
    theta = np.array([[0.3, 2.0], [-1.0, 0.0]])
    mean, covariance = normal([0, 1], [2, 3], [1.0, -0.5])
    scale = torch.tensor([1.0, 2.0])
    density = torch.distributions.MultivariateNormal(
        mean * scale + torch.tensor([0.0, 1.0]), covariance * torch.outer(scale, scale)
    )
    found = exact.log_prob(theta, {"x": [3.0, -1.5]})
    assert torch.allclose(found, density.log_prob(torch.tensor(theta).float()), atol=0.02)


def test_a_trace_along_random_directions_is_about_the_exact_one(
    exact: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta, x = np.zeros((50, 2)), {"x": np.random.default_rng(0).normal(size=(50, 2))}
    wanted = exact.log_likelihood(theta, x)
    monkeypatch.setattr("estimators.joint.density.LARGEST", 1)
    found = exact.log_likelihood(theta, x)
    assert not torch.equal(found, wanted)
    assert (found - wanted).abs().max() < 1.0


def test_random_states_have_their_shares() -> None:
    torch.manual_seed(0)
    states = RandomStates(3, 4, posterior=0.5, likelihood=0.2, absent=0.3).draw(
        20_000, torch.device("cpu")
    )
    assert (states == TARGET).any(1).all()
    assert not (states[:, :3] == ABSENT).any()
    parameters, outputs = states[:, :3], states[:, 3:]
    lost = (outputs == ABSENT).any(1)
    assert 0.2 < lost.float().mean() < 0.3  # of .3, a fifth by chance loses none of four
    whole = (parameters == TARGET).all(1) & (outputs == CONDITION).all(1)
    assert 0.36 < whole.float().mean() < 0.45
    emulated = (parameters == CONDITION).all(1) & (outputs == TARGET).all(1)
    assert 0.14 < emulated.float().mean() < 0.2


def test_values_of_absent_variables_have_no_effect() -> None:
    torch.manual_seed(0)
    network = JointTransformer(3, 4, width=8, depth=2, heads=2, frequencies=2)
    torch.nn.init.normal_(network.last.weight)
    values, states = torch.randn(5, 3), torch.tensor([[TARGET, ABSENT, CONDITION]]).repeat(5, 1)
    other, time = values.clone(), torch.randn(5, 4)
    other[:, 1] = 7.0
    assert torch.equal(network(values, states, time), network(other, states, time))
    other[:, 2] = 7.0
    assert not torch.equal(network(values, states, time), network(other, states, time))


def test_a_graph_says_who_attends_to_whom() -> None:
    problem = testing.make("joint", **SMALL).problem
    graph = {"a": ["b", "counts[1]"], "b": ["trace"]}
    connected = adjacency(problem, graph)
    assert torch.equal(connected, connected.T)
    assert connected.diagonal().all()
    assert connected[0].nonzero()[:, 0].tolist() == [0, 1, 3]  # a, b, counts[1]
    assert connected[1].nonzero()[:, 0].tolist() == [0, 1, *range(5, 13)]
    posterior = testing.trained("joint", **SMALL, sampling_steps=1, graph=graph).posterior()
    x = testing.rows(1)[1]
    other = {**x, "counts": x["counts"] + np.array([[1.0, 0.0, 0.0]])}
    draws = posterior.sample(x, 5, seed=0)
    assert torch.equal(draws, posterior.sample(other, 5, seed=0))
    other = {**x, "counts": x["counts"] + np.array([[0.0, 1.0, 0.0]])}
    changed = posterior.sample(other, 5, seed=0)
    assert torch.equal(draws[..., 1], changed[..., 1])  # one block of attention: b does not see it
    assert not torch.equal(draws[..., 0], changed[..., 0])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"c": ["a"]}, "graph: unknown name 'c'"),
        ({"a": ["a[0]", "counts[3]"]}, r"'counts\[3\]' is not there; 'counts' has 3 elements"),
    ],
)
def test_names_of_a_graph_are_checked(graph: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        testing.make("joint", **SMALL, graph=graph)


def test_outputs_left_out_are_absent() -> None:
    posterior, x = (
        testing.trained("joint", **SMALL, sampling_steps=2).posterior(),
        testing.rows(3)[1],
    )
    nothing = {**x, "trace": np.full((3, 4, 2), np.nan)}
    left = posterior.sample({"counts": x["counts"]}, 5, seed=0)
    assert torch.equal(left, posterior.sample(nothing, 5, seed=0))
    assert not torch.equal(left, posterior.sample(x, 5, seed=0))
    one = posterior.sample({"counts": x["counts"][0]}, 5, seed=0)
    assert one.shape == (5, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c": 1.0}, "unknown parameter 'c'. Valid: a, b"),
        ({"a": 4.0}, r"given\['a'\] = 4 is outside of the prior's support \[-1, 1\]"),
        ({"a": np.nan}, "outside of the prior's support"),
        ({"a": [0.1, 0.2, 0.3]}, r"has shape \(3,\); valid is a number, or \(2,\)"),
        ({"a": 0.1, "b": 1.0}, "nothing is left to draw"),
    ],
)
def test_given_parameters_are_checked(given: dict, message: str) -> None:
    posterior, x = testing.make("joint", **SMALL).posterior(), testing.rows(2)[1]
    with pytest.raises(ValueError, match=message):
        posterior.sample(x, 2, given=given)


def test_given_may_differ_between_observations() -> None:
    posterior, x = testing.make("joint_distilled", **SMALL).posterior(), testing.rows(2)[1]
    draws = posterior.sample(x, 3, given={"a": [0.1, 0.2]}, sampling_steps=2, seed=0)
    assert torch.equal(draws[:, :, 0], torch.tensor([[0.1] * 3, [0.2] * 3]))


def test_a_bound_itself_may_be_given() -> None:
    theta = np.random.default_rng(0).uniform(0, 0.1, (64, 2))  # float32 has no 0.1
    model = estimators.create("joint", theta, {"x": theta}, low=[0, 0], high=[0.1, 0.1], **SMALL)
    draws = model.posterior().sample({"x": [0.0, 0.1]}, 3, given={"theta0": 0.1}, seed=0)
    assert draws[:, 0].numpy() == pytest.approx(0.1)
    assert (draws[:, 0].double() <= 0.1).all()


def test_others_name_who_has_conditionals() -> None:
    posterior, x = testing.make("cmpe", width=8).posterior(), testing.rows(2)[1]
    with pytest.raises(NotImplementedError, match="train estimator 'joint' or 'joint_distilled'"):
        posterior.sample(x, 2, given={"a": 0.1})
    for part in ({"counts": x["counts"]}, {**x, "counts": np.full((2, 3), np.nan)}):
        with pytest.raises(ValueError, match="'cmpe' needs all outputs: estimator 'joint' or"):
            posterior.sample(part, 2)


def test_wrong_parameters_of_the_likelihood() -> None:
    posterior, x = testing.make("joint", **SMALL).posterior(), testing.rows(2)[1]
    with pytest.raises(ValueError, match=r"theta has shape \(3,\); valid is \(B, 2\), or \(2,\)"):
        posterior.emulate([0.1, 1.0, 2.0], 2)
    with pytest.raises(ValueError, match=r"row 1.*outside of the prior's support"):
        posterior.emulate([[0.1, 1.0], [2.0, 1.0]], 2)
    with pytest.raises(ValueError, match="theta has 1 rows, x has 2"):
        posterior.log_likelihood([[0.1, 1.0]], x)


def test_what_cannot_be_variables_is_refused() -> None:
    theta, x = testing.rows()
    ragged = {"trace": x["trace"], "trace_mask": np.ones((256, 4))}
    with pytest.raises(ValueError, match="'trace' has a varying length"):
        estimators.create("joint", theta, ragged)
    with pytest.raises(ValueError, match="2 parameters and 1500 elements of outputs are 1502"):
        estimators.create("joint", theta, {"x": np.random.default_rng(0).normal(size=(256, 1500))})
    with pytest.raises(ValueError, match="valid is a sum of at most 1"):
        testing.make("joint", posterior_share=0.8, likelihood_share=0.3)
    with pytest.raises(ValueError, match="heads = 3 does not divide width = 8"):
        testing.make("joint", width=8, heads=3)


@pytest.mark.parametrize("stop", [5, 9])
def test_a_training_of_both_phases_continues_exactly(stop: int) -> None:
    theta, x = (
        torch.as_tensor(v).float() for v in (testing.rows()[0], testing.rows()[1]["counts"])
    )
    held_out, rows = Batch(theta[:40], {"x": x[:40]}), Batch(theta[40:], {"x": x[40:]})

    def loop() -> Loop:
        torch.manual_seed(0)
        model = estimators.create("joint_distilled", theta, {"x": x}, **SMALL, points=4)
        return Loop(model, replace(HYPERPARAMETERS, steps=12, validate_every=3), held_out, Ranks())

    whole, halted, continued = loop(), loop(), loop()
    keeper = Keeper(stop)
    for one, supervisor in ((whole, Keeper(100)), (halted, keeper), (continued, Keeper(100))):
        if one is continued:
            one.load(keeper.state)
        one.run(ResidentBatches(rows, Order(3, 32)).batches(one.step), supervisor)
    weights = whole.estimator.state_dict()
    assert whole.step == continued.step == 12
    assert all(torch.equal(v, weights[k]) for k, v in continued.estimator.state_dict().items())


class Keeper:
    """Keeps the state at a step and stops there."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.state: dict[str, Any] = {}

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        return loop.step == self.stop, loop.step == self.stop, 1

    def save(self, loop: Loop) -> None:
        self.state = copy.deepcopy(loop.state())


@pytest.mark.slow
def test_training_finds_every_conditional_of_gaussian_linear() -> None:
    """Means within .2 prior deviations and deviations within 20 % of the exact ones, by 10 and 30 passes.

    theta | x ~ N(x / 2, s^2 / 2),   x | theta ~ N(theta, s^2),   theta_2 ~ N(0, s^2) where x_2 is absent.
    """
    model = fitted(steps=2400)
    for posterior in (model.posterior(), model.denoiser.posterior()):
        check_conditionals(posterior)


def fitted(steps: int) -> Any:
    """Return an estimator trained on 10 000 simulations of two parameters."""
    simulator = simulators.load("gaussian_linear", dim=2)
    rng = np.random.default_rng(0)
    theta = simulator.prior.sample(rng, 10_000)
    x = simulator.simulate_block(theta, rng)
    torch.manual_seed(0)
    names = list(simulator.prior.names)
    settings = {"width": 32, "depth": 2, "frequencies": 3, "p_mean": -1.0, "p_std": 1.5}
    shares = {"posterior_share": 0.35, "likelihood_share": 0.25}
    model = estimators.create("joint_distilled", theta, x, names=names, **settings, **shares)
    hyperparameters = replace(HYPERPARAMETERS, steps=steps, validate_every=steps // 4)
    rows, held_out = torch.arange(10_000).split([9800, 200])
    train(model, hyperparameters, batch(theta, x).take(rows), batch(theta, x).take(held_out), 256)
    return model


def check_conditionals(posterior: Any) -> None:
    std = math.sqrt(0.1)
    observed = np.array([[0.5, -0.3], [-0.2, 0.1], [0.0, 0.6]])
    half = std / math.sqrt(2)
    check_normal(posterior.sample({"x": observed}, 2000, seed=0), observed / 2, half, std)
    given = posterior.sample({"x": observed}, 2000, given={"theta_2": 0.3}, seed=0)
    check_normal(given[..., :1], observed[:, :1] / 2, half, std)
    absent = observed.copy()
    absent[:, 1] = np.nan
    draws = posterior.sample({"x": absent}, 2000, seed=0)
    check_normal(draws[..., :1], observed[:, :1] / 2, half, std)
    check_normal(draws[..., 1:], np.zeros((3, 1)), std, std)
    check_normal(posterior.emulate(observed, 2000, seed=0)["x"], observed, std, std)
    wanted = torch.distributions.Normal(torch.zeros(3, 2), std).log_prob(torch.zeros(3, 2)).sum(1)
    found = posterior.log_likelihood(observed, {"x": observed})
    assert torch.allclose(found, wanted, atol=0.2)


def check_normal(draws: Tensor, mean: np.ndarray, spread: float, unit: float) -> None:
    """Compare draws (B, n, k) with a normal distribution; means in units of the prior's deviation."""
    assert np.abs(draws.mean(1).numpy() - mean).max() < 0.2 * unit
    assert (draws.std(1) / spread - 1).abs().max() < 0.2
