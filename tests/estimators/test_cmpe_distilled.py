"""Distillation: boundary, the flow's step, and phases that keep to their own weights."""

from __future__ import annotations

import torch

from estimators import testing
from estimators.cmpe_distilled import CMPEDistilled
from pipeline.dataset import Batch, Order, Resident
from pipeline.training.loop import Loop, Recipe, Team

SMALL = {"width": 16, "depth": 1, "members": 2, "intervals": 10, "steps": 2}
RECIPE = Recipe(
    steps=30,
    learning_rate=1e-2,
    weight_decay=1e-2,
    warmup=0.1,
    clip=1.0,
    ema=0.9,
    validate_every=5,
    patience=None,
    amp=False,
    seed=3,
)


def model(**arguments: object) -> CMPEDistilled:
    estimator = testing.trained("cmpe_distilled", **{**SMALL, **arguments})
    assert isinstance(estimator, CMPEDistilled)
    return estimator


class Keeper:
    """Saves and stops at one step."""

    def __init__(self, stop: int) -> None:
        self.stop, self.state = stop, {}

    def look(self, loop: Loop) -> tuple[bool, bool, int]:
        stop = loop.step >= self.stop
        return stop, stop, 1

    def save(self, loop: Loop) -> None:
        state = loop.state()
        self.state = {
            key: {k: v.clone() for k, v in value.items()} if key == "module" else value
            for key, value in state.items()
        }


def loop() -> Loop:
    made = testing.make("cmpe_distilled", **SMALL)
    assert isinstance(made, CMPEDistilled)
    return Loop(made, RECIPE, rows(20, 1), Team())


def rows(n: int, seed: int) -> Batch:
    theta, x = testing.rows(n, seed)
    return Batch(torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()})


def run(training: Loop, stop: int = 10**9) -> Keeper:
    keeper = Keeper(stop)
    batches = Resident(rows(200, 0), Order(3, 32)).batches(training.step)
    training.run(batches, keeper)
    batches.close()
    return keeper


def test_at_the_shortest_time_it_is_the_identity() -> None:
    estimator = model()
    u, context = 10 * torch.randn(64, 2), torch.randn(64, estimator.summary.width)
    shortest = torch.full((64, 1), estimator.epsilon)
    assert torch.equal(estimator.f(u, context, shortest), u)
    assert not torch.allclose(estimator.f(u, context, shortest + 0.5), u)


def test_the_flows_step_is_heuns() -> None:
    estimator = model()
    u, context = torch.randn(32, 2), torch.randn(32, estimator.summary.width)

    def slope(v: torch.Tensor, t: float) -> torch.Tensor:
        return (v - estimator.denoise(v, context, torch.full((1, 1), t))) / t

    ahead = u - 0.1 * slope(u, 0.6)
    expected = u - 0.1 * (slope(u, 0.6) + slope(ahead, 0.5)) / 2
    step = estimator.flow(u, context, torch.full((32, 1), 0.6), torch.full((32, 1), 0.5))
    assert torch.allclose(step, expected, atol=1e-5)


def test_a_phase_changes_only_its_own_weights() -> None:
    training = loop()
    before = {k: v.clone() for k, v in training.estimator.student.state_dict().items()}  # type: ignore[union-attr]
    run(training, 18)  # 0.6 of 30 steps
    student = training.estimator.student  # type: ignore[union-attr]
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())
    run(training)
    training.finish()
    start = training.estimator.denoisers[0].state_dict()  # type: ignore[index,union-attr]
    assert not all(torch.equal(start[k], v) for k, v in student.state_dict().items())


def test_the_teachers_rest_at_their_best_averages() -> None:
    training = loop()
    run(training, 18)
    assert training.best is not None
    best = {name: v for name, v in training.best.items() if name.startswith("denoisers")}
    run(training)
    found = training.estimator.state_dict()
    assert best
    assert all(torch.equal(found[name], value) for name, value in best.items())


def test_stopped_and_continued_equals_uninterrupted() -> None:
    whole = loop()
    run(whole)
    for stop in (7, 17, 18, 19, 25):
        halted, continued = loop(), loop()
        state = run(halted, stop).state
        with torch.no_grad():
            for parameter in continued.estimator.parameters():
                parameter.fill_(9.0)
        continued.load(state)
        run(continued)
        expected, found = whole.estimator.state_dict(), continued.estimator.state_dict()
        assert all(torch.equal(expected[k], found[k]) for k in expected), stop


def test_each_phase_has_a_schedule_of_its_own() -> None:
    training = loop()
    run(training)
    rates = [entry["learning_rate"] for entry in training.curves]
    assert rates[3] > rates[2]  # steps 20 and 15: the second phase begins at 18
    assert rates[-1] < rates[3]
