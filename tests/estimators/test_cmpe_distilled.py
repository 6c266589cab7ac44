"""Distillation: boundary, the paths it learns from, and phases that keep to their own weights."""

from __future__ import annotations

import pytest
import torch

from estimators import testing
from estimators.cmpe_distilled import CMPEDistilled
from estimators.estimator import Replay
from pipeline.dataset import Batch, Order, Resident
from pipeline.training.loop import Loop, Recipe, Team

SMALL = {
    "width": 16,
    "depth": 1,
    "members": 2,
    "points": 4,
    "kept": 50,
    "teaching": 0.6,
    "steps": 2,
}
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


def test_paths_follow_the_flow_of_the_denoisers_from_the_longest_time() -> None:
    estimator = model(points=200)
    paths = estimator.examples(*_batch(rows(64, 0)))
    u, t, end, context = (paths[name] for name in ("u", "t", "end", "context"))
    assert u.shape == (64, 200, 2)
    assert (t[:, 0] == estimator.T).all()
    assert (t.diff(dim=1) < 0).all()
    assert (t[:, -1] >= estimator.epsilon).all()
    middle = ((t[:, 100:101] + t[:, 101:102]) / 2, (u[:, 100] + u[:, 101]) / 2)
    slope = (middle[1] - estimator.denoise(middle[1], context, middle[0])) / middle[0]
    step = u[:, 101] - u[:, 100]
    assert torch.allclose(step, slope * t[:, 100:102].diff(dim=1), atol=0.02 * float(step.std()))
    assert (end - u[:, -1]).abs().max() < 5 * estimator.epsilon


def test_paths_begin_at_simulated_parameters_with_noise() -> None:
    estimator, batch = model(), rows(2000, 0)
    first = estimator.examples(*_batch(batch))["u"][:, 0]
    noise = (first - estimator.transform(batch.theta)) / estimator.T
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.05


def test_the_student_learns_to_give_the_ends() -> None:
    estimator, batch = model(jitter=0.0, width=64), rows(32, 0)
    paths = estimator.examples(*_batch(batch))
    optimiser = torch.optim.Adam(estimator.student.parameters(), lr=3e-3)
    for _ in range(800):
        optimiser.zero_grad()
        estimator.replayed(paths).backward()
        optimiser.step()
    given = estimator.f(paths["u"][:, 1], paths["context"], paths["t"][:, 1:2])
    error = (given - paths["end"]).abs().mean() / paths["end"].std()
    assert error < 0.25


def test_fewer_paths_are_kept_of_many_parameters() -> None:
    assert model(points=10, kept=10**9).phases[1].replay == Replay(every=10, keep=200_000)


def _batch(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return batch.theta, batch.x


@pytest.mark.parametrize("network", ["mlp", "adaptive_mlp"])
@pytest.mark.parametrize("depth", [0, 3])
def test_a_student_of_another_depth_begins_with_what_fits_of_a_denoiser(
    network: str, depth: int
) -> None:
    made = testing.make("cmpe_distilled", **SMALL, network=network, student_depth=depth)
    assert isinstance(made, CMPEDistilled)
    denoiser = made.denoisers[0].state_dict()
    with torch.no_grad():
        for value in denoiser.values():
            value.add_(1.0)
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    made.begin(1)
    fits = {k for k, v in denoiser.items() if k in before and v.shape == before[k].shape}
    assert fits
    assert fits != set(before) or depth == 0
    for name, value in made.student.state_dict().items():
        assert torch.equal(value, denoiser[name] if name in fits else before[name])


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
    rates = {entry["step"]: entry["learning_rate"] for entry in training.curves}
    assert rates[20] > rates[15] > rates[18]  # the second phase begins at 18
    assert rates[max(rates)] < rates[20]
