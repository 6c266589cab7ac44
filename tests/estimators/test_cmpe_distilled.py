"""Distillation: boundary, the paths it learns from, and phases that keep to their own weights."""

from __future__ import annotations

import pytest
import torch

from estimators import testing
from estimators.cmpe_distilled import CMPEDistilled
from estimators.estimator import Replay
from estimators.problem import InferenceProblem
from estimators.registry import build
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks

SMALL = {
    "width": 16,
    "depth": 1,
    "members": 2,
    "points": 4,
    "replay_size": 50,
    "teacher_fraction": 0.6,
    "sampling_steps": 2,
}
HYPERPARAMETERS = Hyperparameters(
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


class StoppingSupervisor:
    """Saves and stops at one step."""

    def __init__(self, stop: int) -> None:
        self.stop, self.state = stop, {}

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
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
    return Loop(made, HYPERPARAMETERS, rows(20, 1), Ranks())


def rows(n: int, seed: int) -> Batch:
    theta, x = testing.rows(n, seed)
    return Batch(torch.tensor(theta).float(), {k: torch.tensor(v).float() for k, v in x.items()})


def run(training: Loop, stop: int = 10**9) -> StoppingSupervisor:
    recorder = StoppingSupervisor(stop)
    batches = ResidentBatches(rows(200, 0), Order(3, 32)).batches(training.step)
    training.run(batches, recorder)
    batches.close()
    return recorder


def test_at_the_shortest_time_it_is_the_identity() -> None:
    estimator = model()
    u, context = 10 * torch.randn(64, 2), torch.randn(64, estimator.summary.width)
    shortest = torch.full((64, 1), estimator.epsilon)
    assert torch.equal(estimator.consistency_function(u, context, shortest), u)
    assert not torch.allclose(estimator.consistency_function(u, context, shortest + 0.5), u)


def test_paths_follow_the_flow_of_the_denoisers_from_the_longest_time() -> None:
    estimator = model(points=200)
    paths = estimator.examples(*_batch(rows(64, 0)))
    u, t, end, context = (paths[name] for name in ("u", "t", "end", "context"))
    assert u.shape == (64, 200, 2)
    assert (t[:, 0] == estimator.T).all()
    assert (t.diff(dim=1) < 0).all()
    assert (t[:, -1] >= estimator.epsilon).all()
    middle = ((t[:, 100:101] + t[:, 101:102]) / 2, (u[:, 100] + u[:, 101]) / 2)
    slope = (middle[1] - estimator.teacher.denoise(middle[1], context, middle[0])) / middle[0]
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
        estimator.replay_loss(paths).backward()
        optimiser.step()
    given = estimator.consistency_function(paths["u"][:, 1], paths["context"], paths["t"][:, 1:2])
    error = (given - paths["end"]).abs().mean() / paths["end"].std()
    assert error < 0.25


def test_fewer_paths_are_kept_of_many_parameters() -> None:
    made = testing.make("cmpe_distilled", **{**SMALL, "points": 10, "replay_size": 10**9})
    assert made.phases[1].replay == Replay(every=10, keep=2**28 // (2 * 10 * 2))


@pytest.mark.parametrize("side", [28, 56])
def test_thousands_of_paths_of_images_fit_into_the_budget(side: int) -> None:
    made = images(side, points=20, replay_size=2048)
    assert made.half_precision
    assert made.phases[1].replay == Replay(every=20, keep=2048)
    assert 2 * 20 * side**2 * 2048 <= made.settings.replay_mb * 2**20


def test_half_precision_changes_what_is_learned_by_less_than_the_noise() -> None:
    made = images(6)
    theta, x = torch.randn(40, 36).clamp(-1, 1), {"x": torch.randn(40, 6, 6)}
    torch.manual_seed(1)
    single = made.examples(theta, x)
    made.half_precision = True
    torch.manual_seed(1)
    half = made.examples(theta, x)
    assert half["u"].dtype == torch.float16
    back = made._unpacked(half["u"], single["t"].unsqueeze(2))
    error = (back - single["u"]).abs() / single["t"].unsqueeze(2)
    assert 0 < error.max() < 0.5  # of values up to 4 at the shortest time, t = .002
    assert error.mean() < 0.02
    assert error[:, 0].max() < 0.01  # at the longest
    losses = []
    for made.half_precision, examples in ((False, single), (True, half)):
        torch.manual_seed(2)
        losses.append(made.replay_loss(examples).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def images(side: int, **arguments: object) -> CMPEDistilled:
    """Return an estimator for square images, of one untrained small network."""
    problem = InferenceProblem(
        tuple(f"p{i}" for i in range(side**2)),
        (-1.0,) * side**2,
        (1.0,) * side**2,
        {"x": (side, side)},
    )
    given = {"network": "image_unet", "summary": "image", "width": 4, "depth": 1, "members": 1}
    made = build("cmpe_distilled", problem, {**given, "points": 6, **arguments})
    assert isinstance(made, CMPEDistilled)
    return made


def _batch(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return batch.theta, batch.x


@pytest.mark.parametrize("network", ["mlp", "adaptive_mlp"])
@pytest.mark.parametrize("depth", [0, 3])
def test_a_student_of_another_depth_begins_with_what_fits_of_a_denoiser(
    network: str, depth: int
) -> None:
    made = testing.make("cmpe_distilled", **SMALL, network=network, student_depth=depth)
    assert isinstance(made, CMPEDistilled)
    denoiser = made.teacher.denoisers[0].state_dict()
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
    start = training.estimator.teacher.denoisers[0].state_dict()  # type: ignore[index,union-attr]
    assert not all(torch.equal(start[k], v) for k, v in student.state_dict().items())


def test_the_teachers_rest_at_their_best_averages() -> None:
    training = loop()
    run(training, 18)
    assert training.best is not None
    best = {name: v for name, v in training.best.items() if name.startswith("teacher.denoisers")}
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


def test_weights_from_before_the_teacher_stood_apart_are_read() -> None:
    made = model(summary="deepset")
    state = made.state_dict()
    former = {
        key.replace("teacher.denoisers", "denoisers"): value
        for key, value in state.items()
        if not key.startswith("teacher.") or "denoisers" in key
    }
    assert any(key.startswith("denoisers.0.") for key in former)
    other = testing.make("cmpe_distilled", **SMALL, summary="deepset")
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(former)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    again = testing.make("ensemble", member="cmpe_distilled", members=1, arguments={**SMALL})
    nested = testing.make("cmpe_distilled", **SMALL).state_dict()
    again.members[0].load_state_dict(nested)


def test_the_teacher_shares_transform_and_summary() -> None:
    made = testing.make("cmpe_distilled", **SMALL)
    assert isinstance(made, CMPEDistilled)
    assert made.teacher.summary is made.summary
    assert made.teacher.transform is made.transform
