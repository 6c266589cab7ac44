"""The CMPE of the paper: every choice does what it says, in both protocols."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

import estimators
from benchmarks.paper import NAME
from benchmarks.paper.cmpe_paper import CMPEPaper
from benchmarks.paper.protocol import PROTOCOLS
from estimators import testing

CPU = torch.device("cpu")
LAWFUL = {
    # The law of bounds is what `bounds = ignore` breaks, see `test_ignored_bounds_are_left`.
    "as_coded": {"protocol": "as_coded", "bounds": "reflect"},
    "corrected": {"protocol": "corrected"},
    "other": {
        "protocol": "corrected",
        "bounds": "probit",
        "time_input": "log_fourier",
        "scale_input": True,
        "standardise_theta": True,
        "standardise_x": True,
        "sigma": "shared",
        "times": "uniform",
        "weighting": "none",
        "visit_epsilon": True,
        "summary": "deepset",
    },
}


def model(protocol: str = "corrected", **arguments: Any) -> CMPEPaper:
    estimator = testing.trained(NAME, protocol=protocol, width=32, **arguments)
    assert isinstance(estimator, CMPEPaper)
    return estimator


def tensors(n: int = 64) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    theta, x = testing.rows(n)
    return torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", LAWFUL)
@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_law(case: str, law: testing.Callable) -> None:
    law(NAME, width=32, **LAWFUL[case])


@pytest.mark.slow
@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_law_as_coded_but_for_the_bounds(law: testing.Callable) -> None:
    if law is not testing.draws_have_their_shape_and_bounds:
        law(NAME, width=32, protocol="as_coded")


def test_ignored_bounds_are_left() -> None:
    x = testing.rows(5)[1]
    low, high = torch.tensor(testing.LOW), torch.tensor(testing.HIGH)
    for bounds, outside in (("ignore", True), ("reflect", False)):
        draws = model("as_coded", bounds=bounds).posterior().sample(x, 200, seed=0).double()
        assert bool(((draws < low) | (draws > high)).any()) == outside


def test_protocols_differ_in_every_choice_and_each_can_be_overridden() -> None:
    coded, corrected = asdict(PROTOCOLS["as_coded"]), asdict(PROTOCOLS["corrected"])
    for name, value in corrected.items():
        assert coded[name] != value
        changed = testing.make(NAME, protocol="as_coded", width=32, **{name: value})
        assert isinstance(changed, CMPEPaper)
        assert asdict(changed.choices) == {**coded, name: value}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_the_shortest_time_it_is_the_identity(protocol: str) -> None:
    f, u, context = model(protocol), 10 * torch.randn(64, 2), torch.randn(64, 11)
    assert torch.equal(f.f(u, context, torch.full((64, 1), f.epsilon)), u)
    assert not torch.allclose(f.f(u, context, torch.full((64, 1), 0.1)), u)


def test_scalings_are_the_published_ones() -> None:
    """With F = 1 the consistency function is c_skip u + c_out."""
    f = testing.make(NAME, protocol="as_coded", width=8)
    for parameter in f.network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(f.network.last.bias)
    theta = torch.tensor(testing.rows()[0])
    s2, u, t = theta.var(0, correction=0).float(), torch.randn(7, 2), 0.3
    skip = s2 / ((t - 1e-3) ** 2 + s2)
    out = s2.sqrt() * (t - 1e-3) / (s2 + t**2).sqrt()
    found = f.f(u, torch.zeros(7, 11), torch.tensor([[t]]))
    assert torch.allclose(found, skip * u + out, rtol=1e-5)


@pytest.mark.parametrize(
    ("extra", "ticks", "expected"),
    [(False, 0.0, [10, 20, 40, 50]), (True, 0.0, [11, 21, 41, 51]), (True, 0.5, [11, 21, 41, 51])],
)
def test_curriculum(extra: bool, ticks: float, expected: list[int]) -> None:
    f = testing.make(NAME, width=8, extra_interval=extra, validation_ticks=ticks)
    progress = np.linspace(0, 1, 20_001)
    found = np.array([f.intervals(p) for p in progress])
    assert sorted(set(found)) == expected
    # The stages are equally long but for the last: N doubles at k / (log2(5) + 1) of the counter.
    stage = 1 / (math.log2(5) + 1) / (1 + ticks)
    starts = [progress[np.argmax(found == n)] for n in expected]
    assert starts == pytest.approx([0, stage, 2 * stage, 3 * stage], abs=1e-4)


def test_stage_has_the_grid_and_its_weights() -> None:
    f = testing.make(NAME, width=8, s0=4, s1=4, weighting="inverse")
    table, edges = f.stage(0.5, CPU)
    t = f.grid(4).float()
    assert torch.equal(table[:, 0], t[:-1])
    assert torch.equal(table[:, 1], t[1:])
    assert torch.allclose(table[:, 2], 1 / t.diff(), rtol=1e-4)
    normal = [0.5 * math.erf((math.log(v) + 1.1) / math.sqrt(8)) for v in t.tolist()]
    shares = np.diff(normal) / (normal[-1] - normal[0])
    assert np.allclose(edges.numpy(), shares.cumsum()[:-1], atol=1e-6)
    plain = testing.make(NAME, width=8, s0=4, s1=4, weighting="none", times="uniform")
    table, edges = plain.stage(0.5, CPU)
    assert torch.equal(table[:, 2], torch.ones(4))
    assert torch.allclose(edges, torch.tensor([0.25, 0.5, 0.75]))


def test_pseudo_huber_of_coordinates_and_of_the_vector() -> None:
    gap = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    vector = model(huber=0.1, huber_norm="vector").distance(gap)
    coordinates = model(huber=0.1, huber_norm="coordinate").distance(gap)
    c2 = 0.1**2 * 2
    assert vector[:, 0].tolist() == pytest.approx(
        [math.sqrt(25 + c2) - math.sqrt(c2), 0.0], abs=1e-6
    )
    mean = (math.sqrt(9 + c2) + math.sqrt(16 + c2)) / 2 - math.sqrt(c2)
    assert coordinates[:, 0].tolist() == pytest.approx([mean, 0.0], abs=1e-6)


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_masks_of_both_sides(masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = model(dropout=0.5, masks=masks).train()
    seen = []
    original = f.f

    def watched(noisy: Any, context: Any, t: Any, mask: Any) -> torch.Tensor:
        seen.append(mask)
        return original(noisy, context, t, mask)

    monkeypatch.setattr(f, "f", watched)
    f.loss(*tensors(), 0.5)
    teacher, student = seen
    assert torch.equal(teacher, student) == (masks == "shared")
    assert set(torch.cat(seen).unique().tolist()) == {0.0, 2.0}


def test_dropout_that_is_always_active_moves_draws_but_not_their_seed() -> None:
    x = testing.rows(3)[1]
    posteriors = {
        always: model("as_coded", dropout=0.5, dropout_always=always).posterior()
        for always in (True, False)
    }
    draws = {always: p.sample(x, 20, seed=1) for always, p in posteriors.items()}
    assert not torch.allclose(draws[True], draws[False])  # equal weights: training drops the same
    assert torch.equal(draws[True], posteriors[True].sample(x, 20, seed=1))
    with pytest.raises(NotImplementedError, match="dropout_always"):
        posteriors[True].sample_with_log_prob(x, 2, sampling_steps=1)
    free = model("as_coded", dropout=0.0).posterior()
    assert free.sample_with_log_prob(x, 2, sampling_steps=1)[1].isfinite().all()


def test_sigma_is_that_of_the_parameters_fixed_or_two_weights() -> None:
    variance = torch.tensor(testing.rows()[0]).var(0, correction=0).float()
    for sigma, expected in (
        ("per_dimension", variance),
        ("shared", variance.mean(0, keepdim=True)),
        (0.5, torch.tensor([0.25])),
    ):
        fresh = testing.make(NAME, width=8, sigma=sigma)
        assert torch.allclose(fresh.variance, expected)
        assert torch.allclose(fresh.spread, expected.sqrt())
    assert torch.allclose(model().variance, variance)
    drifted = model("as_coded")
    weights = dict(drifted.named_parameters())
    assert {"variance", "spread"} <= set(weights)
    assert not torch.allclose(drifted.spread.square(), drifted.variance)


def test_start_of_a_draw() -> None:
    wide, narrow = model(start="marginal", T=1.0), model(start="T", T=1.0)
    assert narrow.initial_spread(1.0) == 1.0
    assert torch.allclose(wide.initial_spread(1.0), (wide.variance + 1).sqrt())


def test_epsilon_is_visited_or_not() -> None:
    f, plain = model(visit_epsilon=True), model()
    assert f.times(5) == [*plain.times(4), f.epsilon]
    assert f.times(1) == plain.times(1)
    x = testing.rows(2)[1]
    last = f.posterior().sample(x, 5, sampling_steps=5, seed=0)
    assert torch.equal(last, plain.posterior().sample(x, 5, sampling_steps=4, seed=0))


def test_l2_counts_all_kernels_but_the_last() -> None:
    theta, x = tensors()
    values = []
    for l2 in (0.0, 1.0):
        f = testing.make(NAME, width=8, l2=l2, dropout=0.0)
        torch.manual_seed(0)
        values.append(f.loss(theta, x, 0.5).item())
    kernels = [layer.weight for layer in (f.network.first, *f.network.layers)]
    squares = sum(float(w.detach().square().sum()) for w in kernels)
    assert values[1] - values[0] == pytest.approx(squares, rel=1e-3)


def test_outputs_are_taken_as_they_are_or_standardised() -> None:
    theta, x = testing.rows()
    raw = testing.make(NAME, width=8)
    _, tensor = tensors(8)
    flat = torch.cat([tensor[name].flatten(1) for name in sorted(tensor)], dim=1)
    assert torch.equal(raw.summary(tensor), flat)
    assert torch.equal(raw.transform(torch.tensor(theta).float()), torch.tensor(theta).float())
    scaled = testing.make(NAME, width=8, standardise_x=True, standardise_theta=True)
    assert scaled.transform(torch.tensor(theta)).std(0).tolist() == pytest.approx([1, 1], rel=0.01)
    x["counts"] *= 1e4
    with pytest.raises(ValueError, match=r"standardise_x = True"):
        estimators.create(NAME, theta, x, width=8)
    estimators.create(NAME, theta, x, width=8, standardise_x=True)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("protocol", "coded", ValueError),
        ("extra_interval", 1, TypeError),
        ("validation_ticks", -0.1, ValueError),
        ("huber_norm", "vectors", ValueError),
        ("masks", "same", ValueError),
        ("dropout_always", "yes", TypeError),
        ("sigma_trainable", 0.5, TypeError),
        ("start", "sigma", ValueError),
        ("bounds", "clamp", ValueError),
        ("width", 0, ValueError),
        ("depth", 1.5, TypeError),
        ("dropout", 1.0, ValueError),
        ("l2", -1.0, ValueError),
        ("time_input", "fourier", ValueError),
        ("scale_input", "no", TypeError),
        ("standardise_theta", 1, TypeError),
        ("standardise_x", 1, TypeError),
        ("sigma", "wide", ValueError),
        ("sigma", 0.0, ValueError),
        ("epsilon", 0.0, ValueError),
        ("T", 1e-4, ValueError),
        ("rho", 0.5, ValueError),
        ("s0", 1, ValueError),
        ("s1", 5, ValueError),
        ("times", "normal", ValueError),
        ("p_std", 0.0, ValueError),
        ("weighting", "1/dt", ValueError),
        ("huber", 0.0, ValueError),
        ("sampling_steps", 0, ValueError),
        ("visit_epsilon", 0, TypeError),
        ("summary", "deepsets", LookupError),
    ],
)
def test_bad_argument_is_named(key: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=key):
        testing.make(NAME, **{key: value})


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_learns_a_known_posterior(protocol: str) -> None:
    """theta ~ N(0, 1), x ~ N(theta, 1): the posterior is N(x / 2, 1 / 2)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4096, 1))
    x = {"x": theta + rng.normal(size=theta.shape)}
    torch.manual_seed(0)
    f = estimators.create(NAME, theta, x, protocol=protocol, width=64)
    data = torch.tensor(theta).float(), torch.tensor(x["x"]).float()
    optimiser = torch.optim.Adam(f.parameters(), lr=3e-3, fused=True)
    steps = 1500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rows = torch.randint(len(theta), (128,))
        optimiser.zero_grad()
        f.loss(data[0][rows], {"x": data[1][rows]}, step / steps).backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    observed = np.array([[-1.5], [0.0], [2.0]])
    draws = f.posterior().sample({"x": observed}, 4000, sampling_steps=4, seed=0)[..., 0].numpy()
    assert np.allclose(draws.mean(1), observed[:, 0] / 2, atol=0.12)
    assert np.allclose(draws.std(1), math.sqrt(0.5), atol=0.1)
