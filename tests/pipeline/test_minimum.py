"""A clear minimum of the validation loss, which healthy trainings never show, and the weights that it keeps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from estimators import create
from estimators.estimator import Phase
from pipeline.train import checkpoint
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.minimum import clear_minimum
from pipeline.train.ranks import Ranks

STEPS = list(range(10, 1010, 10))
TIME = np.linspace(0.01, 1, 100)


def minimum(losses):
    return clear_minimum("training", STEPS[: len(losses)], losses)


def healthy(kind, rng):
    """Return a curve of a training that does not overfit, with some of the noise that curves have."""
    falling = {
        "exponential": 0.5 + 2 * np.exp(-8 * TIME),
        "still falling": 2 - TIME,
        "flat": np.zeros(100),
        "slow drift upwards": 0.5 + 2 * np.exp(-8 * TIME) + 0.05 * TIME,
        "steep": -3 + 100 * np.exp(-60 * TIME),
    }[kind]
    white = rng.choice([0.001, 0.01, 0.1]) * rng.normal(size=100)
    walk = 0.005 * rng.normal(size=100).cumsum() * (kind != "flat")
    return falling + white + walk


@pytest.mark.parametrize(
    "kind", ["exponential", "still falling", "flat", "slow drift upwards", "steep"]
)
def test_noise_is_no_minimum(kind):
    rng = np.random.default_rng(0)
    assert not any(minimum(healthy(kind, rng)) for _ in range(2000))


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_a_loss_that_rises_again_has_its_minimum(noise):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        curve = 0.33 + 2 * np.exp(-30 * TIME) + 1.25 * np.maximum(0, TIME - 0.3)
        losses = curve + noise * rng.normal(size=100)
        found = minimum(losses)
        assert found is not None
        assert 10 * (np.argmin(losses) + 1) == found.step
        assert 100 < found.step < 450
        assert found.loss == losses.min()
        assert found.end == losses[-1]


def test_a_rise_from_the_first_validation_is_one_and_four_validations_are_too_few():
    assert minimum([0.3, 0.5, 0.9, 1.3, 1.8]).step == 10
    assert minimum([0.3, 0.9, 1.3, 1.8]) is None


class Straight(nn.Module):
    """Polynomials of a high degree through few noisy points: it learns them by heart."""

    moving = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.last = nn.Linear(256, 1)

    @property
    def phases(self):
        return (Phase("training", 1.0, list(self.parameters()), moving=self.moving),)

    def loss(self, theta, x, progress):
        return (self.last(self.net(x["x"])) - theta).square().mean()


HYPERPARAMETERS = Hyperparameters(300, 1e-2, 0.0, 0.01, None, 0.9, 10, None, False, 1)


def rows(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, generator=generator)
    return Batch(0.5 * x + torch.randn(n, 1, generator=generator), {"x": x})


def overfit(estimator, stop=None, state=None):
    loop = Loop(estimator, HYPERPARAMETERS, rows(200, 1), Ranks())
    if state is not None:
        loop.load(state)
    source = ResidentBatches(rows(16, 0), Order(3, 16)).batches(loop.step)

    class Recorder:
        saved = None

        def check(self, loop):
            return (loop.step == stop,) * 2 + (1,)

        def save(self, loop):
            self.saved = loop.state()

    recorder = Recorder()
    done = loop.run(source, recorder)
    source.close()
    if done:
        loop.finish()
    return loop, recorder.saved


def held_out(estimator):
    batch = rows(5000, 2)
    with torch.no_grad():
        return float(estimator.loss(batch.theta, batch.x, 1.0))


def test_an_overfitted_training_keeps_the_weights_of_its_minimum(monkeypatch):
    kept, _ = overfit(Straight())
    assert len(kept.minima) == 1
    losses = {row["step"]: row["validation"] for row in kept.curves}
    assert kept.kept_step == kept.minima[0].step == min(losses, key=losses.get)
    assert kept.kept_step < 150
    monkeypatch.setattr("pipeline.train.loop.clear_minimum", lambda *_: None)
    last, _ = overfit(Straight())
    assert last.kept_step is None
    assert held_out(kept.estimator) < 0.9 * held_out(last.estimator)


def test_losses_with_a_moving_target_are_not_compared():
    estimator = Straight()
    estimator.moving = True
    loop, _ = overfit(estimator)
    assert loop.minima == []
    assert loop.kept_step is None
    assert loop.best is None


@pytest.mark.parametrize("stop", [15, 299])
def test_a_continued_training_keeps_the_same_weights(stop, tmp_path):
    whole, _ = overfit(Straight())
    _, state = overfit(Straight(), stop)
    checkpoint.write(tmp_path, state)
    continued, _ = overfit(Straight(), None, checkpoint.read(tmp_path))
    assert continued.minima == whole.minima
    assert continued.kept_step == whole.kept_step
    pairs = zip(whole.estimator.parameters(), continued.estimator.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ["cmpe", "cmpe_distilled", "nsf", "npse", "fmpe", "joint"])
def test_a_healthy_training_keeps_what_it_kept_before(name, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(600, 2, generator=generator)
    x = {"x": theta + 0.3 * torch.randn(600, 2, generator=generator)}
    small = {"hidden": [16], "transforms": 2} if name == "nsf" else {"width": 16, "depth": 1}

    def train():
        torch.manual_seed(0)
        model = create(name, theta, x, **small)
        hyperparameters = dataclasses.replace(
            HYPERPARAMETERS, steps=60, learning_rate=1e-3, validate_every=10
        )
        loop = Loop(model, hyperparameters, Batch(theta[:100], {"x": x["x"][:100]}), Ranks())
        source = ResidentBatches(Batch(theta[100:], {"x": x["x"][100:]}), Order(3, 32)).batches(0)

        class Recorder:
            def check(self, loop):
                return False, False, 10

        loop.run(source, Recorder())
        source.close()
        loop.finish()
        return loop

    now = train()
    assert now.minima == []
    monkeypatch.setattr("pipeline.train.loop.clear_minimum", lambda *_: None)
    before = train().estimator.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in now.estimator.state_dict().items())
