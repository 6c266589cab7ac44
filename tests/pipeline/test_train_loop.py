"""The loop, its weights and the states on disk, with a regression as the smallest estimator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from estimators.estimator import Phase, Replay
from pipeline.errors import PipelineError
from pipeline.train import checkpoint
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks
from pipeline.train.weights import Weights


class Regression(nn.Module):
    """Predicts theta from noisy x, with dropout: everything random that a loss may use."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2)
        )
        self.progress = []

    @property
    def phases(self):
        return (Phase("training", 1.0, list(self.parameters())),)

    def loss(self, theta, x, progress):
        self.progress.append(progress)
        noisy = x["x"] + 0.1 * torch.randn_like(x["x"])
        return (self.net(noisy) - theta).square().mean()


class Recorder:
    """A supervisor that saves in memory and stops where it is told."""

    def __init__(self, stop_at=math.inf, stride=7):
        self.stop_at, self.stride, self.states, self.checks = stop_at, stride, [], []

    def check(self, loop):
        self.checks.append(loop.step)
        stop = loop.step >= self.stop_at
        return stop, stop, 1 if math.isfinite(self.stop_at) else self.stride

    def save(self, loop):
        self.states.append(loop.state())


def hyperparameters(**changes):
    values = {
        "steps": 60,
        "learning_rate": 1e-2,
        "weight_decay": 1e-2,
        "warmup": 0.1,
        "clip": 1.0,
        "ema": 0.9,
        "validate_every": 10,
        "patience": None,
        "amp": False,
        "seed": 3,
    }
    return Hyperparameters(**(values | changes))


def rows(n, seed, noise=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    theta = x[:, :2] @ torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    theta += noise * torch.randn(n, 2, generator=generator)
    return Batch(theta, {"x": x})


def make(changes=None, noise=0.0):
    loop = Loop(Regression(), hyperparameters(**(changes or {})), rows(40, 1, noise), Ranks())
    return loop, ResidentBatches(rows(200, 0, noise), Order(3, 32))


def run(loop, source, recorder=None):
    batches = source.batches(loop.step)
    try:
        return loop.run(batches, recorder or Recorder())
    finally:
        batches.close()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_tells_progress():
    loop, source = make()
    assert run(loop, source)
    losses = [entry["validation"] for entry in loop.curves]
    assert [entry["step"] for entry in loop.curves] == [10, 20, 30, 40, 50, 60]
    assert losses[-1] < 0.5 * losses[0]
    trained = [p for p in loop.estimator.progress if p < 1]
    assert trained == [k / 60 for k in range(60)]
    assert loop.best_loss == min(losses)


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 37, 59])
def test_stopped_and_continued_equals_uninterrupted(stop, tmp_path):
    loop, source = make()
    run(loop, source)
    halted, source = make()
    recorder = Recorder(stop_at=stop)
    assert not run(halted, source, recorder)
    checkpoint.write(tmp_path, recorder.states[-1])
    continued, source = make()
    with torch.no_grad():
        for parameter in continued.estimator.parameters():
            parameter.fill_(9.0)  # what the state must replace
    continued.load(checkpoint.read(tmp_path))
    assert continued.step == stop
    run(continued, source)
    assert same(loop.estimator.state_dict(), continued.estimator.state_dict())
    assert all(
        torch.equal(*pair)
        for pair in zip(loop.weights.average, continued.weights.average, strict=True)
    )
    drop = [{k: v for k, v in e.items() if k != "seconds"} for e in loop.curves]
    assert drop == [{k: v for k, v in e.items() if k != "seconds"} for e in continued.curves]


def test_how_often_it_validates_or_looks_changes_nothing():
    results = []
    for every, stride in ((1, 1), (7, 50), (60, 13)):
        loop, source = make({"validate_every": every})
        run(loop, source, Recorder(stride=stride))
        results.append((loop.estimator.state_dict(), loop.curves[-1]["validation"]))
    assert same(results[0][0], results[1][0])
    assert same(results[0][0], results[2][0])
    assert results[0][1] == results[1][1] == results[2][1]


def test_early_stopping_keeps_the_best_average():
    changes = {"steps": 2000, "patience": 5, "learning_rate": 0.05, "validate_every": 2}
    loop, source = make(changes, noise=2.0)
    assert run(loop, source)
    assert loop.step < 2000
    assert loop.waiting == 5
    losses = [entry["validation"] for entry in loop.curves]
    assert min(losses[-5:]) >= loop.best_loss == min(losses)
    loop.finish()
    loop.weights.decay = 0.0  # measure the module as it is
    assert loop._validation_loss() == pytest.approx(loop.best_loss, rel=1e-6)


def test_without_patience_the_last_average_is_kept():
    loop, source = make()
    run(loop, source)
    average = [value.clone() for value in loop.weights.average]
    loop.finish()
    assert all(
        torch.equal(*pair) for pair in zip(loop.estimator.parameters(), average, strict=True)
    )


def test_a_loss_that_is_not_finite_names_the_step():
    loop, _ = make()
    broken = rows(200, 0)
    broken.theta[:] = float("nan")
    good = [next(ResidentBatches(rows(200, 0), Order(3, 32)).batches(0))]
    recorder = Recorder()
    batches = iter([*good * 13, *[Batch(broken.theta[:32], {"x": broken.x["x"][:32]})] * 9])
    with pytest.raises(PipelineError, match="the loss is nan in step 13 of 60"):
        loop.run(batches, recorder)
    with pytest.raises(PipelineError, match="weight is not finite"):
        loop.state()


def test_a_phase_that_asks_for_it_keeps_its_best_average():
    class Best(Regression):
        @property
        def phases(self):
            return (Phase("training", 1.0, list(self.parameters()), best=True),)

    changes = {"steps": 3000, "validate_every": 50, "learning_rate": 3e-2}
    validation, training = (
        rows(40, 1, noise=1.0),
        ResidentBatches(rows(40, 0, noise=1.0), Order(3, 32)),
    )
    loop = Loop(Best(128), hyperparameters(**changes), validation, Ranks())
    assert run(loop, training)
    assert loop.best_loss < loop.curves[-1]["validation"]
    loop.finish()
    assert same(loop.estimator.state_dict(), loop.best)


class Twice(Regression):
    """Trains its first layer, then its last."""

    @property
    def phases(self):
        first, second = self.net[0], self.net[3]
        return (
            Phase("first", 0.5, list(first.parameters())),
            Phase("second", 0.5, list(second.parameters()), 0.1),
        )

    def begin(self, phase):
        self.before = [p.detach().clone() for p in self.net[0].parameters()]


def test_the_end_of_a_phase_is_validated():
    loop = Loop(Twice(), hyperparameters(validate_every=20), rows(40, 1), Ranks())
    run(loop, ResidentBatches(rows(200, 0), Order(3, 32)))
    assert [entry["step"] for entry in loop.curves] == [20, 30, 40, 60]


def test_every_phase_has_a_schedule_of_its_own():
    model = Twice()
    loop = Loop(model, hyperparameters(validate_every=5), rows(40, 1), Ranks())
    run(loop, ResidentBatches(rows(200, 0), Order(3, 32)))
    own = hyperparameters(steps=30)
    expected = [factor * own.rate(k) for factor in (1, 0.1) for k in range(4, 30, 5)]
    assert [entry["learning_rate"] for entry in loop.curves] == pytest.approx(expected)
    now = model.net[0].parameters()
    assert all(torch.equal(a, b) for a, b in zip(model.before, now, strict=True))


class Replaying(Regression):
    """Learns from examples that it makes of a batch now and then."""

    def __init__(self):
        super().__init__()
        self.made = []

    @property
    def phases(self):
        return (Phase("training", 1.0, list(self.parameters()), replay=Replay(every=4, keep=70)),)

    def examples(self, theta, x):
        self.made.append(x["x"])
        return {"theta": theta, "x": x["x"] + 0.1 * torch.randn_like(x["x"])}

    def replay_loss(self, examples):
        return (self.net(examples["x"]) - examples["theta"]).square().mean()


def test_a_phase_with_replay_learns_from_the_latest_examples():
    loop = Loop(Replaying(), hyperparameters(steps=13, validate_every=100), rows(40, 1), Ranks())
    run(loop, ResidentBatches(rows(200, 0), Order(3, 32)))
    made = loop.estimator.made
    assert len(made) == 4  # steps 0, 4, 8, 12
    assert loop.examples["x"].shape == (70, 3)
    latest = torch.cat(made[::-1])[:70]
    assert (loop.examples["x"] - latest).abs().max() < 1
    assert (loop.examples["x"] != latest).any()


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_a_phase_with_replay_continues_exactly(stop):
    whole, halted, continued = (
        Loop(Replaying(), hyperparameters(steps=13), rows(40, 1), Ranks()) for _ in range(3)
    )
    run(whole, ResidentBatches(rows(200, 0), Order(3, 32)))
    recorder = Recorder(stop)
    halted.run(ResidentBatches(rows(200, 0), Order(3, 32)).batches(0), recorder)
    continued.load(recorder.states[-1])
    run(continued, ResidentBatches(rows(200, 0), Order(3, 32)))
    assert same(whole.estimator.state_dict(), continued.estimator.state_dict())


def test_learning_rate_warms_up_and_falls_as_a_cosine():
    schedule = hyperparameters(steps=110, warmup=10 / 110, learning_rate=2.0)
    assert [schedule.rate(k) for k in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert schedule.rate(10) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(1.0)
    assert 0 < schedule.rate(109) < 1e-3
    assert hyperparameters(warmup=0.0, learning_rate=2.0).rate(0) == 2.0


def test_steps_are_those_of_adamw_with_clipped_gradients():
    ours, theirs = Regression(), Regression()
    weights = Weights(ours.parameters(), 0.0)
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.1)
    for step in range(5):
        for module in (ours, theirs):
            torch.manual_seed(step)
            module.loss(torch.ones(8, 2), {"x": torch.ones(8, 3)}, 0.0).backward()
        weights.step(weights.gradients(), 0.02, 0.1, 0.5, step)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimiser.step()
        optimiser.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_average_has_its_formula():
    module = nn.Linear(1, 1, bias=False)
    weights = Weights(module.parameters(), 0.5)
    average = module.weight.item()
    for k in range(12):
        module.weight.grad = torch.ones(1, 1)
        weights.step(weights.gradients(), 0.1, 0.0, None, k)
        decay = min(0.5, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * module.weight.item()
    assert weights.average[0].item() == pytest.approx(average, rel=1e-5)
    with weights.averaged():
        assert module.weight.item() == pytest.approx(average, rel=1e-5)
    assert module.weight.item() != pytest.approx(average, rel=1e-5)


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path, capfd):
    assert checkpoint.read(tmp_path) is None
    for number in (1, 2, 3):
        checkpoint.write(tmp_path, {"step": number, "w": torch.full((100,), float(number))})
    assert checkpoint.read(tmp_path)["step"] == 3
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
    content = bytearray((tmp_path / "state.pt").read_bytes())
    for place in range(0, len(content), max(1, len(content) // 40)):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        (tmp_path / "state.pt").write_bytes(flipped)
        assert checkpoint.read(tmp_path)["step"] == 2
    assert "state.pt is damaged" in capfd.readouterr().err
    (tmp_path / "state.pt").write_bytes(content[:-100])
    assert checkpoint.read(tmp_path)["step"] == 2
    (tmp_path / "state.previous.pt").write_bytes(b"")
    assert checkpoint.read(tmp_path) is None


def test_bfloat16_trains():
    loop, source = make({"amp": True})
    assert run(loop, source)
    assert loop.curves[-1]["validation"] < loop.curves[0]["validation"]


@pytest.mark.parametrize("parts", [2, 3, 100])
def test_gradients_in_parts_are_those_of_the_whole_batch(parts):
    batch = rows(32, 0)
    losses, gradients = [], []
    for count in (1, parts):
        loop, _ = make()
        loop.estimator.loss = lambda theta, x, progress, net=loop.estimator.net: (
            (net(x["x"]) - theta).square().mean()
        )
        loop.estimator.eval()  # no dropout
        losses.append(float(loop.differentiate(batch, count)))
        gradients.append([p.grad.clone() for p in loop.weights.parameters])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for whole, summed in zip(*gradients, strict=True):
        assert torch.allclose(whole, summed, atol=1e-6)


class Narrow(Regression):
    """Has memory for a few rows only."""

    most = 10

    def loss(self, theta, x, progress):
        if len(theta) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. More words.")
        return super().loss(theta, x, progress)


@pytest.mark.parametrize(
    ("most", "accumulate", "message"),
    [
        (
            10,
            1,
            "train.batch_size=32 computes 32 rows at a time .CUDA out of memory.; 8 rows fit: "
            "use train.accumulate=4, or train.batch_size=8",
        ),
        (10, 2, "with train.accumulate=2 computes 16 rows .*; 8 rows fit: use train.accumulate=4"),
        (0, 1, "not even one row fits: take a smaller network"),
    ],
)
def test_out_of_memory_names_what_would_fit(most, accumulate, message):
    model = Narrow()
    model.most = most
    loop = Loop(model, hyperparameters(accumulate=accumulate), rows(5, 1), Ranks())
    with pytest.raises(PipelineError, match=message):
        run(loop, ResidentBatches(rows(200, 0), Order(3, 32)))
