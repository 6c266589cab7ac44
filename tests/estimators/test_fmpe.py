"""Flow matching: solvers, times, and the density along the path back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import estimators
from estimators import testing
from estimators.fmpe import FMPE, TIMES, FMPESettings
from estimators.ode import adaptive, euler, midpoint
from estimators.problem import InferenceProblem


class Exact(FMPE):
    """The exact velocity for u ~ N(mean, spread^2) of each of D parameters.

    v(u, t) = mean + (t spread^2 - (1 - t)) / (t^2 spread^2 + (1 - t)^2) (u - t mean)
    """

    mean, spread = 0.5, 0.3
    passes = 0

    def velocity(
        self,
        u: torch.Tensor,
        context: torch.Tensor,
        t: torch.Tensor,
        masks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.passes += 1
        variance = self.spread**2
        slope = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
        return self.mean + slope * (u - t * self.mean)


def exact(size: int = 2, **arguments: object) -> Exact:
    free = (-math.inf,) * size, (math.inf,) * size
    names = tuple(f"t{i}" for i in range(size))
    return Exact(InferenceProblem(names, *free, {"x": (1,)}), FMPESettings(**arguments))


def draws(f: FMPE, n: int, steps: int | Sequence[float] | None = None) -> torch.Tensor:
    with torch.no_grad():
        return f.sample_latent(torch.zeros(n, 1), torch.Generator().manual_seed(0), steps)


@pytest.mark.parametrize(("solver", "each"), [("euler", 1), ("midpoint", 2)])
@pytest.mark.parametrize("passes", [2, 6, 20])
def test_steps_are_network_passes(solver: str, each: int, passes: int) -> None:
    f = exact(solver=solver)
    draws(f, 3, passes)
    assert f.passes == passes
    f.passes = 0
    draws(f, 3, [0.0, 0.5, 0.8])
    assert f.passes == 3 * each


def test_solvers_have_their_order() -> None:
    """Halving the step divides the error by 2 (Euler) and by 4 (midpoint)."""

    def velocity(u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return u * t.cos()

    u = torch.ones(1, 1, dtype=torch.float64)
    end = math.exp(math.sin(1.0))
    for solver, order in ((euler, 1), (midpoint, 2)):
        errors = [
            abs(solver(velocity, u, [i / n for i in range(n + 1)]).item() - end) for n in (32, 64)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
    assert adaptive(velocity, u, (0.0, 1.0), 1e-8).item() == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize(
    ("solver", "steps"), [("euler", 400), ("midpoint", 40), ("adaptive", None)]
)
def test_exact_velocity_gives_exact_draws(solver: str, steps: int | None) -> None:
    f = exact(solver=solver)
    u = draws(f, 20_000, steps)
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    # The path of a normal is straight: u = mean + spread z.
    assert torch.allclose(u, f.mean + f.spread * z, atol=0.01)


@pytest.mark.parametrize("size", [2, 25])
def test_exact_velocity_gives_the_exact_density(size: int) -> None:
    """The trace of a multiple of the identity is exact along any direction, too."""
    f = exact(size)
    u = f.mean + torch.randn(50, size)
    ours = f.log_prob_latent(u, torch.zeros(50, 1))
    theirs = torch.distributions.Normal(f.mean, f.spread).log_prob(u).sum(1)
    assert torch.allclose(ours, theirs, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "adaptive"])
def test_draws_come_with_the_exact_density(solver: str) -> None:
    f = exact(solver=solver, sampling_steps=200)
    with torch.no_grad():
        u, ours = f.sample_latent_with_log_prob(
            torch.zeros(50, 1), torch.Generator().manual_seed(0), None
        )
    theirs = torch.distributions.Normal(f.mean, f.spread).log_prob(u).sum(1)
    assert torch.allclose(ours, theirs, atol=0.12 if solver == "euler" else 2e-3)


@pytest.mark.parametrize("name", TIMES)
def test_times_lie_between_zero_and_one(name: str) -> None:
    t = TIMES[name](torch.tensor([0.0, 0.3, 1 - 2**-24]))
    assert ((t >= 0) & (t <= 1)).all()
    assert (t.diff() > 0).all()


def test_times_have_their_distribution() -> None:
    share = torch.linspace(0, 1, 10_002)[1:-1].double()
    t = TIMES["power"](share, exponent=2.0)
    assert (t < 0.5).double().mean().item() == pytest.approx(0.5**3, abs=1e-3)
    logit = torch.logit(TIMES["logit_normal"](share, mean=1.0, std=2.0))
    assert logit.mean().item() == pytest.approx(1.0, abs=1e-2)
    assert logit.std().item() == pytest.approx(2.0, abs=2e-2)


@pytest.mark.parametrize("sigma_min", [0.0, 0.2])
def test_loss_is_that_of_straight_paths(sigma_min: float) -> None:
    """A velocity of zero leaves the mean square of u - (1 - s) z, which is 1 + (1 - s)^2."""
    f = testing.make("fmpe", width=8, sigma_min=sigma_min, bounds="reflect")
    theta, x = testing.rows(256)
    theta, x = torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()}
    torch.manual_seed(0)
    losses = [f.loss(theta, x, 0.5).item() for _ in range(50)]
    assert np.mean(losses) == pytest.approx(1 + (1 - sigma_min) ** 2, abs=0.03)


def test_a_velocity_that_is_not_finite_ends_the_solver() -> None:
    with pytest.raises(FloatingPointError, match="t = 0"):
        adaptive(lambda u, t: u / 0, torch.ones(1, 1), (0.0, 1.0), 1e-5)


@pytest.mark.parametrize(
    ("solver", "steps", "message"),
    [
        ("euler", 0, "steps"),
        ("midpoint", 3, "valid is a multiple of 2"),
        ("euler", [0.5], "from 0 to below 1"),
        ("euler", [0.0, 0.5, 0.5], "from 0 to below 1"),
        ("euler", [0.0, 1.0], "from 0 to below 1"),
        ("adaptive", 10, "fixed number of passes"),
    ],
)
def test_bad_steps_are_refused(solver: str, steps: object, message: str) -> None:
    posterior = testing.make("fmpe", width=8, solver=solver).posterior()
    with pytest.raises(ValueError, match=message):
        posterior.sample(testing.rows(1)[1], 2, sampling_steps=steps)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("times", "cosine", LookupError),
        ("times_arguments", {"exponent": 1.0}, TypeError),
        ("times_arguments", {"std": 0.0}, ValueError),
        ("solver", "heun", LookupError),
        ("sampling_steps", 0, ValueError),
        ("sigma_min", -0.1, ValueError),
        ("width", 0, ValueError),
    ],
)
def test_bad_argument_is_named(key: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(value)) if isinstance(value, dict) else key):
        testing.make("fmpe", **{"times": "logit_normal", key: value})


def test_reflection_draws_but_has_no_density() -> None:
    posterior, x = testing.make("fmpe", width=8, bounds="reflect").posterior(), testing.rows(1)[1]
    assert posterior.sample(x, 3, seed=0).shape == (1, 3, 2)
    for call in (
        lambda: posterior.log_prob(np.zeros((1, 1, 2)), x),
        lambda: posterior.sample_with_log_prob(x, 3),
    ):
        with pytest.raises(NotImplementedError, match="probit or logit"):
            call()


def test_it_learns_a_known_posterior() -> None:
    """theta ~ N(0, 1), x ~ N(theta, 1): the posterior is N(x / 2, 1 / 2)."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4096, 1))
    x = theta + rng.normal(size=theta.shape)
    torch.manual_seed(0)
    f = estimators.create("fmpe", theta, {"x": x}, width=64)
    rows = torch.tensor(theta).float(), torch.tensor(x).float()
    optimiser = torch.optim.AdamW(f.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 800)
    for step in range(800):
        at = torch.randint(len(theta), (128,))
        optimiser.zero_grad()
        f.loss(rows[0][at], {"x": rows[1][at]}, step / 800).backward()
        optimiser.step()
        schedule.step()
    observed = {"x": np.array([[-1.5], [0.0], [2.0]])}
    found = f.posterior().sample(observed, 4000, seed=0)[..., 0].numpy()
    assert np.allclose(found.mean(1), observed["x"][:, 0] / 2, atol=0.12)
    assert np.allclose(found.std(1), math.sqrt(0.5), atol=0.1)
    at = np.tile(np.linspace(-1, 1, 5)[:, None], (3, 1, 1))
    wanted = torch.distributions.Normal(torch.tensor(observed["x"]) / 2, math.sqrt(0.5))
    assert torch.allclose(
        f.posterior().log_prob(at, observed).double(),
        wanted.log_prob(torch.tensor(at[..., 0])),
        atol=0.35,
    )
