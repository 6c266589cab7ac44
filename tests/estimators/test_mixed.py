"""Discrete parameters and simplexes: exact posteriors of small models, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm

import estimators
from estimators.estimator import Estimator

NOISE = 0.8


def fitted(estimator: Estimator, theta: np.ndarray, x: np.ndarray, steps: int) -> Estimator:
    torch.manual_seed(0)
    rows, outputs = torch.tensor(theta).float(), torch.tensor(x).float()
    optimiser = torch.optim.Adam(estimator.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        at = torch.randint(len(rows), (256,))
        optimiser.zero_grad()
        estimator.loss(rows[at], {"x": outputs[at]}, 0.5).backward()
        optimiser.step()
        schedule.step()
    return estimator


def model(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a category c in 0..2, a whole number k in 2..6 and a real a, with x = (k + c + e, a + c + e)."""
    rng = np.random.default_rng(0)
    c, k, a = rng.choice(3, n, p=[0.2, 0.3, 0.5]), rng.integers(2, 7, n), rng.normal(size=n)
    x = np.stack([k + c, a + 2 * c], 1) + NOISE * rng.normal(size=(n, 2))
    return np.stack([c, a, k], 1), x


def made(theta: np.ndarray, x: np.ndarray, name: str = "mixed", **given: object) -> Estimator:
    return estimators.create(
        name, theta, {"x": x}, low=[0, -np.inf, 2], high=[2, np.inf, 6],
        names=["c", "a", "k"], kinds=["category", "continuous", "integer"], **given,
    )  # fmt: skip


def exact(x: np.ndarray) -> np.ndarray:
    """Return P(c, k | x), shape (3, 5)."""
    c, k = np.arange(3)[:, None], np.arange(2, 7)[None]
    weight = np.array([0.2, 0.3, 0.5])[:, None] * norm.pdf(x[0], k + c, NOISE)
    weight = weight * norm.pdf(x[1], 2 * c, np.hypot(1, NOISE))
    return weight / weight.sum()


@pytest.fixture(scope="module")
def mixed() -> Estimator:
    theta, x = model(20_000)
    given = {"transforms": 2, "bins": 4, "hidden": [32, 32]}
    return fitted(made(theta, x, **given), theta, x, 400).eval()


def test_probabilities_are_those_of_the_exact_posterior(mixed: Estimator) -> None:
    posterior = mixed.posterior()
    for x in ([4.3, 1.0], [6.0, 3.0], [3.0, -0.5]):
        draws = posterior.sample({"x": np.array(x)}, 20_000, seed=0).numpy()
        assert np.array_equal(draws[:, [0, 2]], draws[:, [0, 2]].round())
        found = np.histogram2d(
            draws[:, 0], draws[:, 2], [np.arange(4) - 0.5, np.arange(2, 8) - 0.5]
        )[0]
        assert np.abs(found / len(draws) - exact(np.array(x))).sum() / 2 < 0.08
        for c in range(3):
            rows = draws[draws[:, 0] == c, 1]
            if len(rows) > 4000:  # a | c, x is normal
                centre = (x[1] - 2 * c) / (1 + NOISE**2)
                assert rows.mean() == pytest.approx(centre, abs=0.1)
                assert rows.std() == pytest.approx(NOISE / np.hypot(1, NOISE), rel=0.12)


def test_the_density_is_one_over_all_values(mixed: Estimator) -> None:
    posterior, x = mixed.posterior(), {"x": np.array([4.3, 1.0])}
    a = np.linspace(-5, 5, 801)
    total, marginal = 0.0, np.zeros((3, 5))
    for c in range(3):
        for k in range(2, 7):
            theta = np.stack([np.full_like(a, c), a, np.full_like(a, k)], 1)
            marginal[c, k - 2] = np.exp(posterior.log_prob(theta, x).numpy()).sum() * (a[1] - a[0])
    total = marginal.sum()
    assert total == pytest.approx(1, abs=0.01)
    draws, log_prob = posterior.sample_with_log_prob(x, 500, seed=1)
    assert torch.allclose(posterior.log_prob(draws.numpy(), x), log_prob, atol=1e-4)
    between = posterior.log_prob(np.array([[0.5, 0.0, 3.0], [0.0, 0.0, 7.0]]), x)
    assert torch.isneginf(between).all()


def test_an_artefact_knows_the_kinds(mixed: Estimator, tmp_path: Path) -> None:
    estimators.save(tmp_path / "posterior", mixed, {})
    again = estimators.load(tmp_path / "posterior")
    x = {"x": np.array([4.3, 1.0])}
    assert torch.equal(again.sample(x, 50, seed=2), mixed.posterior().sample(x, 50, seed=2))


@pytest.mark.parametrize("name", ["nsf", "cmpe_distilled", "fmpe", "npse", "acf"])
def test_others_refuse_what_is_not_continuous(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"continuous parameters, and 'c' is category; valid: mixed"
    ):
        made(*model(50), name=name)


def test_wrong_rows_are_told() -> None:
    theta, x = model(50)
    theta[3, 2] = 2.5
    with pytest.raises(ValueError, match=r"'k' is integer, but theta holds 2.5"):
        made(theta, x)


def test_discrete_parameters_alone() -> None:
    theta, x = model(200)
    estimator = estimators.create(
        "mixed", theta[:, [0, 2]], {"x": x}, low=[0, 2], high=[2, 6], kinds=["category", "integer"]
    )
    draws, log_prob = estimator.posterior().sample_with_log_prob({"x": x[:2]}, 30, seed=0)
    assert draws.shape == (2, 30, 2)
    assert (log_prob < 0).all()


SMALL = {"width": 16, "depth": 1}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("acf", {}),
        ("nsf", {}),
        ("mixed", {}),
        *((n, SMALL) for n in ("fmpe", "npse", "cmpe", "cmpe_distilled")),
    ],
)
def test_draws_of_shares_add_up_to_one(name: str, given: dict[str, int]) -> None:
    rng = np.random.default_rng(1)
    theta = np.column_stack([rng.normal(size=80), rng.dirichlet([1, 2, 1], 80)])
    x = theta[:, :3] + 0.1 * rng.normal(size=(80, 3))
    estimator = estimators.create(
        name,
        theta,
        {"x": x},
        low=[-np.inf, 0, 0, 0],
        high=[np.inf, 1, 1, 1],
        simplexes=[(1, 2, 3)],
        **given,
    )
    outputs = {"x": torch.tensor(x).float()}
    assert estimator.loss(torch.tensor(theta).float(), outputs, 0.5).isfinite()
    draws = estimator.eval().posterior().sample({"x": x[:2]}, 50, seed=0)
    assert draws.shape == (2, 50, 4)
    assert torch.allclose(draws[..., 1:].sum(-1), torch.ones(2, 50), atol=1e-5)


def test_an_estimator_that_knows_no_shares_says_so() -> None:
    theta = np.random.default_rng(0).dirichlet([1, 1], 20)
    with pytest.raises(
        ValueError, match=r"cannot infer parameters that add up to one \(theta0, theta1\)"
    ):
        estimators.create("joint", theta, {"x": theta}, low=[0, 0], high=[1, 1], simplexes=[(0, 1)])


def test_shares_follow_the_exact_posterior() -> None:
    """Counts of three kinds among twenty: a Dirichlet prior stays one."""
    rng = np.random.default_rng(1)
    prior = np.array([1.0, 2.0, 1.0])
    theta = rng.dirichlet(prior, 6000)
    x = np.stack([rng.multinomial(20, row) for row in theta]).astype(float)
    estimator = estimators.create(
        "nsf_autoregressive", theta, {"x": x}, low=[0, 0, 0], high=[1, 1, 1],
        simplexes=[(0, 1, 2)], transforms=2, bins=4, hidden=[32, 32],
    )  # fmt: skip
    posterior = fitted(estimator, theta, x, 400).eval().posterior()
    for counts in ([4, 10, 6], [15, 5, 0]):
        observed = {"x": np.array(counts, float)}
        draws = posterior.sample(observed, 8000, seed=0).numpy()
        assert draws.sum(1) == pytest.approx(np.ones(8000), abs=1e-5)
        assert (draws >= 0).all()
        a = prior + counts
        for j in range(3):
            one = beta(a[j], a.sum() - a[j])
            assert draws[:, j].mean() == pytest.approx(one.mean(), abs=0.03)
            assert draws[:, j].std() == pytest.approx(one.std(), rel=0.2)
    theta = np.array([[0.2, 0.5, 0.3]])
    x0 = {"x": np.array([4.0, 10.0, 6.0])}
    u = estimator.transform(torch.tensor(theta))
    assert torch.allclose(
        estimator.transform.inverse(u.float()), torch.tensor(theta).float(), atol=1e-5
    )
    grid = np.stack(np.meshgrid(*[np.arange(0.5, 60) / 60] * 2, indexing="ij"), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) < 1]
    rows = np.column_stack([grid, 1 - grid.sum(1)])
    mass = np.exp(posterior.log_prob(rows, x0).numpy()).sum() / 3600
    assert mass == pytest.approx(1, abs=0.05)
