"""Refinement: the truncated prior, what a round keeps, and what a repeat or a larger total does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.answer.stage import Question
from pipeline.errors import UsageError
from pipeline.refine.answer import Truncated
from pipeline.refine.region import Region, contained, truncated
from pipeline.refine.stage import Refinement, refine
from pipeline.simulate.stage import simulate_target
from pipeline.simulate.target import Target, listed
from pipeline.stop import Stop
from pipeline.store import Store
from sbiflow import Normal, Run
from simulators import Independent, Prior

PRIOR = Independent({"a": Normal(0, 1), "b": Normal(0, 1)})
X = {"x": np.array([[0.6, -0.4]], np.float32)}


class Exact:
    """The posterior N(0.8 x, 0.2) of x ~ N(theta, 1/4), theta ~ N(0, 1)."""

    names, x_shapes, sampling_steps = ("a", "b"), {"x": (2,)}, None

    def sample(self, x: Any, n: int, **options: Any) -> torch.Tensor:
        rng = torch.Generator().manual_seed(options.get("seed") or 0)
        return 0.8 * torch.as_tensor(x["x"])[:, None] + 0.2**0.5 * torch.randn(
            1, n, 2, generator=rng
        )

    def log_prob(self, theta: np.ndarray, x: Any) -> torch.Tensor:
        z = torch.as_tensor(np.array(theta)) - 0.8 * torch.as_tensor(x["x"])[:, None]
        return -(z**2).sum(-1) / 0.4


def region(prior: Prior = PRIOR, level: float = 0.1) -> Region:
    draws = Exact().sample(X, 20_000).numpy().astype(float)
    return Region.of(Exact(), draws, X, prior, level)


def test_the_truncated_prior_is_the_prior_in_the_region() -> None:
    """Of a disc around the mean: as by rejection from the whole prior, and its share of the prior."""
    one = region()
    theta, share = truncated(PRIOR, [one], 4000, 0)
    assert contained([one], theta).all()
    whole = PRIOR.sample(np.random.default_rng(1), 200_000)
    inside = whole[contained([one], whole)]
    assert share == pytest.approx(len(inside) / len(whole), rel=0.05)
    assert theta.mean(0) == pytest.approx(inside.mean(0), abs=0.03)
    assert np.cov(theta.T) == pytest.approx(np.cov(inside.T), abs=0.03)
    more, _ = truncated(PRIOR, [one], 4100, 0)
    assert np.array_equal(more[:4000], theta)


def test_a_region_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.refine import region as module

    monkeypatch.setattr(module, "MOST_CANDIDATES", 40_000)
    one = region()
    nowhere = Region(one.posterior, one.x, one.threshold + 100, one.low, one.high)
    with pytest.raises(UsageError, match="only 0 of 40000 draws of the prior lie in the region"):
        truncated(PRIOR, [nowhere], 10, 0)


def test_draws_outside_are_drawn_again() -> None:
    one = region(level=0.4)
    draws = Truncated(Exact(), [one], {}).sample(X, 500, seed=0).numpy()[0]
    assert contained([one], draws.astype(float)).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    def noisy(a: float, b: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([a, b]) + 0.2 * rng.normal(size=2)}

    run = Run(
        tmp_path_factory.mktemp("runs") / "mine",
        noisy,
        prior={"a": Normal(0, 1), "b": Normal(0, 1)},
        budget=200,
        test=20,
        estimator={"name": "nsf", "arguments": {"transforms": 2, "hidden": [24, 24]}},
        train={"steps": 250, "learning_rate": 3e-3},
    )
    run.simulate()
    run.train()
    return run


@pytest.mark.slow
def test_rounds_follow_each_other_and_a_repeat_changes_nothing(run: Run) -> None:
    x = {"x": X["x"][0]}

    def rounds(simulations: int) -> list[Any]:
        return refine(Refinement(Question(run._directory), simulations, 2), x, Stop())

    first, second = rounds(80)
    assert second.share < first.share + 0.01 < 0.9
    assert 40 < first.rows < 240
    assert second.rows > 60
    again = rounds(80)
    assert [one.digest for one in again] == [first.digest, second.digest]
    larger = rounds(100)[0]
    assert larger.folder == first.folder  # the store of the first round has grown

    def parameters(one: Any) -> np.ndarray:
        return np.load(one.folder / "parameters.npz")["theta"]

    assert len(parameters(larger)) == 50
    answer = run.refine(x, 80, draws=200)
    assert contained(second.regions, answer.draws).mean() > 0.99
    assert Path(answer.path).parent == second.folder


@pytest.mark.slow
def test_wrong_use_is_told(run: Run) -> None:
    asked = Refinement(Question(run._directory), 15, 2)
    with pytest.raises(UsageError, match="at least 10 in each round"):
        refine(asked, X["x"][0], Stop())


@pytest.mark.slow
def test_listed_simulations_do_not_depend_on_workers_or_stops(run: Run) -> None:
    """A store at given parameters: by two workers at once, and by one that is stopped in between."""
    theta = PRIOR.sample(np.random.default_rng(3), 60)

    def fill(name: str, count: int, workers: int) -> Store:
        config = run.config.model_copy(
            update={"simulate": run.config.simulate.model_copy(update={"workers": workers})}
        )
        spec = listed(config, run.simulator, theta, {"of": "a test"})
        target = Target("predictive", spec, run.path / name, count)
        simulate_target(config, run._directory, target, stop=Stop())
        return Store.open(target.path)

    whole = fill("whole", 60, 2)
    fill("parts", 25, 1)
    parts = fill("parts", 60, 1)
    assert parts.digest(60) == whole.digest(60)
    assert np.array_equal(parts.rows(np.arange(60)).theta, theta)
    other = listed(run.config, run.simulator, theta, {"of": "another"})
    assert other.seed != listed(run.config, run.simulator, theta, {"of": "a test"}).seed
