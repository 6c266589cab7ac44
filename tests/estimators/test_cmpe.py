"""Consistency model: boundary, curriculum, gradient, and a posterior that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.cmpe import CMPE, Discretisation


def model(**arguments: object) -> CMPE:
    estimator = testing.trained("cmpe", width=32, **arguments)
    assert isinstance(estimator, CMPE)
    return estimator


def test_at_the_shortest_time_it_is_the_identity() -> None:
    f, u, context = model(), 10 * torch.randn(64, 2), torch.randn(64, 11)
    assert torch.equal(f.consistency_function(u, context, torch.full((64, 1), f.epsilon)), u)


def test_elsewhere_it_is_not() -> None:
    f, u, context = model(), torch.randn(64, 2), torch.randn(64, 11)
    assert not torch.allclose(f.consistency_function(u, context, torch.full((64, 1), 0.1)), u)


def batch(n: int = 256) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return testing.tensors(*testing.rows(n))


def test_loss_and_gradient_are_those_of_the_documented_formula() -> None:
    f = model(dropout=0.0, sigma=0.7)
    theta, x = batch()
    torch.manual_seed(5)
    loss = f.loss(theta, x, 0.7)
    ours = torch.autograd.grad(loss, list(f.parameters()))

    torch.manual_seed(5)
    u, context = f.transform(theta), f.summary(x)
    grid = f.discretisation(0.7, u.device)
    i = grid.sample_intervals(len(u))
    z = torch.randn_like(u)

    def answer(t: torch.Tensor) -> torch.Tensor:
        s, e, a = 0.7, f.epsilon, f.input_scale
        noisy, root = u + t * z, (s**2 + t**2).sqrt()
        output = f.network(a / root * noisy, a * context, f.inputs.features(t[:, 0]))
        return s**2 / ((t - e) ** 2 + s**2) * noisy + s * (t - e) / root * output

    t, t_next = grid.times[i].split(1, dim=1)
    gap = (answer(t_next) - answer(t).detach()).square().sum(1)
    written = (grid.weights[i] * ((gap + f.c**2).sqrt() - f.c)).mean()
    assert torch.allclose(loss, written, rtol=1e-4)
    for a, b in zip(ours, torch.autograd.grad(written, list(f.parameters())), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("summary", ["identity", "deepset"])
def test_the_optimised_loss_is_the_plain_one(
    dropout: float, summary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = model(dropout=dropout, summary=summary, input_scale=2.5, sigma=0.7).train()
    torch.nn.init.normal_(f.network.last.weight, std=0.1)
    theta, x = batch(60)
    values, taken = [], []
    original = CMPE._fused_loss
    monkeypatch.setattr(CMPE, "_fused_loss", lambda *given: taken.append(1) or original(*given))
    before = torch.get_num_threads()
    for threads in (1, 2):  # the optimisation is for one thread
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(5)
            loss = f.loss(theta, x, 0.7)
            values.append([loss, *torch.autograd.grad(3 * loss, list(f.parameters()))])
        finally:
            torch.set_num_threads(before)
    assert len(taken) == 1
    for fused, plain in zip(*values, strict=True):
        scale = float(plain.detach().abs().max())
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=2e-5 * scale)


def test_bfloat16_gives_about_the_same_gradient() -> None:
    f = model(dropout=0.2)
    f.train()
    torch.nn.init.normal_(f.network.last.weight, std=0.1)
    theta, x = testing.rows()
    theta, x = torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}

    def gradient(short: bool) -> torch.Tensor:
        torch.manual_seed(5)
        f.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=short):
            loss = f.loss(theta, x, 0.7)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in f.parameters()])

    exact, short = gradient(False), gradient(True)
    assert short.dtype == torch.float32
    assert torch.cosine_similarity(exact, short, dim=0) > 0.98
    assert not torch.equal(exact, short)


def test_grid_is_karras() -> None:
    f = model(epsilon=0.01, T=4.0, rho=2.0)
    assert f.grid(2).tolist() == pytest.approx([0.01, 1.05**2, 4.0])


def test_curriculum_doubles_to_its_end() -> None:
    f = model(s0=10, s1=50)
    intervals = [
        len(f.discretisation(p, torch.device("cpu")).times) for p in np.linspace(0, 1, 101)
    ]
    assert sorted(set(intervals)) == [10, 20, 40, 50]
    assert intervals == sorted(intervals)
    assert intervals[0] == 10
    assert intervals[-1] == 50


def test_intervals_follow_the_discretised_normal() -> None:
    f = model(p_mean=-1.0, p_std=1.5)
    grid, t = Discretisation(f, 10, torch.device("cpu")), f.grid(10)
    torch.manual_seed(0)
    earlier = grid.times[grid.sample_intervals(200_000), 0]
    index = torch.searchsorted(t.float(), earlier.contiguous() * 1.0001) - 1
    shares = torch.bincount(index, minlength=10) / 200_000
    edges = [0.5 * math.erf((math.log(v) + 1.0) / (math.sqrt(2) * 1.5)) for v in t.tolist()]
    expected = np.diff(edges) / (edges[-1] - edges[0])
    assert np.allclose(shares.numpy(), expected, atol=0.005)


def test_student_and_teacher_share_the_dropout_mask() -> None:
    f = model(dropout=0.5)
    f.train()
    masks = f.network.masks(64, torch.device("cpu"))
    v = torch.randn(64, 2), torch.randn(64, 11), torch.randn(64, f.inputs.features.width)
    assert torch.equal(f.network(*v, masks), f.network(*v, masks))
    assert not torch.equal(f.network(*v, masks), f.network(*v, f.network.masks(64, masks.device)))
    assert torch.stack([f.network.masks(64, masks.device) for _ in range(200)]).mean().item() == (
        pytest.approx(1.0, abs=0.01)
    )
    assert f.eval().network.masks(64, masks.device) is None


def test_steps_are_a_number_or_times() -> None:
    posterior, x = model(T=8.0).posterior(), testing.rows(2)[1]
    times = posterior.module.times(3)
    assert times[0] == pytest.approx(8.0)
    same = posterior.sample(x, 5, sampling_steps=times, seed=1)
    assert torch.equal(same, posterior.sample(x, 5, sampling_steps=3, seed=1))
    assert not torch.equal(same, posterior.sample(x, 5, sampling_steps=2, seed=1))


@pytest.mark.parametrize("steps", [0, [], [1.0, 2.0], [100.0], [1.0, 1e-9]])
def test_bad_steps_are_refused(steps: object) -> None:
    with pytest.raises(ValueError, match="steps"):
        model().posterior().sample(testing.rows(1)[1], 2, sampling_steps=steps)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("width", 0, ValueError),
        ("width", 1.5, TypeError),
        ("dropout", 1.0, ValueError),
        ("s1", 5, ValueError),
        ("T", 1e-4, ValueError),
        ("sigma", "wide", TypeError),
        ("bounds", "clamp", LookupError),
        ("summary", "deepsets", LookupError),
    ],
)
def test_bad_argument_is_named(key: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=key):
        testing.make("cmpe", **{key: value})


def test_it_has_no_density_and_says_what_has() -> None:
    with pytest.raises(NotImplementedError, match="nsf"):
        model().posterior().log_prob(np.zeros((1, 1, 2)), testing.rows(1)[1])


def test_it_learns_a_known_posterior() -> None:
    """theta ~ N(0, 1), x ~ N(theta, 1): the posterior is N(x / 2, 1 / 2)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4096, 1))
    x = {"x": theta + rng.normal(size=theta.shape)}
    torch.manual_seed(0)
    f = estimators.create("cmpe", theta, x, width=64, input_scale=1.0)
    data = torch.tensor(theta).float(), torch.tensor(x["x"]).float()
    optimiser = torch.optim.AdamW(f.parameters(), lr=3e-3, fused=True)
    steps = 1500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rows = torch.randint(len(theta), (128,))
        optimiser.zero_grad()
        f.loss(data[0][rows], {"x": data[1][rows]}, step / steps).backward()
        optimiser.step()
        schedule.step()
    observed = np.array([[-1.5], [0.0], [2.0]])
    draws = f.posterior().sample({"x": observed}, 4000, sampling_steps=4, seed=0)[..., 0].numpy()
    assert np.allclose(draws.mean(1), observed[:, 0] / 2, atol=0.12)
    assert np.allclose(draws.std(1), math.sqrt(0.5), atol=0.1)
