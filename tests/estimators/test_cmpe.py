"""Consistency model: boundary, curriculum, gradient, and a posterior that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.cmpe import CMPE, Stage


def model(**arguments: object) -> CMPE:
    estimator = testing.trained("cmpe", width=32, **arguments)
    assert isinstance(estimator, CMPE)
    return estimator


def test_at_the_shortest_time_it_is_the_identity() -> None:
    f, u, context = model(), 10 * torch.randn(64, 2), torch.randn(64, 11)
    columns = f.columns(torch.full((64,), f.epsilon))
    assert torch.equal(f.consistency(u, context, columns), u)


def test_elsewhere_it_is_not() -> None:
    f, u, context = model(), torch.randn(64, 2), torch.randn(64, 11)
    assert not torch.allclose(f.consistency(u, context, f.columns(torch.full((64,), 0.1))), u)


def test_gradient_is_that_of_the_written_loss() -> None:
    f = model(dropout=0.0)
    theta, x = (torch.tensor(a).float() if isinstance(a, np.ndarray) else a for a in testing.rows())
    x = {k: torch.tensor(v).float() for k, v in x.items()}
    torch.manual_seed(5)
    f.zero_grad()
    loss = f.loss(theta, x, 0.7)
    loss.backward()
    ours = [p.grad.clone() for p in f.parameters() if p.grad is not None]

    torch.manual_seed(5)
    f.zero_grad()
    u, context = f.transform(theta), f.gain * f.summary(x)
    stage = f.stage(0.7, u.device)
    i = stage.draw(len(u))
    (earlier, later), weight = stage.table[:, i], stage.weights[i]
    z = torch.randn_like(u)
    teacher = f.consistency(u + earlier[:, :1] * z, context, earlier).detach()
    student = f.consistency(u + later[:, :1] * z, context, later)
    gap = (student - teacher).square().sum(1)
    written = (weight * ((gap + f.c**2).sqrt() - f.c)).mean()
    written.backward()
    assert torch.allclose(loss, written, rtol=1e-4)
    for a, p in zip(ours, f.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-3, atol=1e-6)


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
    intervals = [f.stage(p, torch.device("cpu")).table.shape[1] for p in np.linspace(0, 1, 101)]
    assert sorted(set(intervals)) == [10, 20, 40, 50]
    assert intervals == sorted(intervals)
    assert intervals[0] == 10
    assert intervals[-1] == 50


def test_intervals_follow_the_discretised_normal() -> None:
    f = model(p_mean=-1.0, p_std=1.5)
    stage, t = Stage(f, 10, torch.device("cpu")), f.grid(10)
    torch.manual_seed(0)
    earlier = stage.table[0, stage.draw(200_000)]
    index = torch.searchsorted(t.float(), earlier[:, 0].contiguous() * 1.0001) - 1
    shares = torch.bincount(index, minlength=10) / 200_000
    edges = [0.5 * math.erf((math.log(v) + 1.0) / (math.sqrt(2) * 1.5)) for v in t.tolist()]
    expected = np.diff(edges) / (edges[-1] - edges[0])
    assert np.allclose(shares.numpy(), expected, atol=0.005)


def test_student_and_teacher_share_the_dropout_mask() -> None:
    f = model(dropout=0.5)
    f.train()
    masks = f.network.masks(64, torch.device("cpu"))
    v = torch.randn(64, 2), torch.randn(64, 11), torch.randn(64, f.features.width)
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
    same = posterior.sample(x, 5, steps=times, seed=1)
    assert torch.equal(same, posterior.sample(x, 5, steps=3, seed=1))
    assert not torch.equal(same, posterior.sample(x, 5, steps=2, seed=1))


@pytest.mark.parametrize("steps", [0, [], [1.0, 2.0], [100.0], [1.0, 1e-9]])
def test_bad_steps_are_refused(steps: object) -> None:
    with pytest.raises(ValueError, match="steps"):
        model().posterior().sample(testing.rows(1)[1], 2, steps=steps)


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
    f = estimators.create("cmpe", theta, x, width=64, gain=1.0)
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
    draws = f.posterior().sample({"x": observed}, 4000, steps=4, seed=0)[..., 0].numpy()
    assert np.allclose(draws.mean(1), observed[:, 0] / 2, atol=0.12)
    assert np.allclose(draws.std(1), math.sqrt(0.5), atol=0.1)
