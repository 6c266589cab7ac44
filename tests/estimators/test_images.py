"""Estimators of images: every method and every option of training, on images of 8 x 8 pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from estimators.estimator import Estimator
from estimators.problem import InferenceProblem
from estimators.registry import build
from pipeline.train import validation
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks

SIDE = 8
METHODS = {
    "cmpe": {"sampling_steps": 2},
    "cmpe_distilled": {"members": 1, "points": 4, "replay_size": 64, "teacher_fraction": 0.5},
    "fmpe": {"bounds": "reflect", "sampling_steps": 4},
    "npse": {"members": 1, "sampling_steps": 4},
}
NETWORKS = {
    "image_unet": {"width": 16, "depth": 1, "summary": "image"},
    "naive_mlp": {"width": 32, "summary": "cnn"},
    "patch_transformer": {"width": 8, "depth": 1, "summary": "image"},
    "unet": {"width": 4, "depth": 1, "summary": "cnn"},
}


@pytest.fixture(autouse=True)
def few_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate rows once: these losses need not be precise."""
    monkeypatch.setattr(validation, "ROWS", 16)


def images(rows: int, seed: int) -> Batch:
    """Return squares at random places and of random brightness, and the same with noise."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, SIDE - 3, (rows, 2), generator=generator)
    pixel = torch.arange(SIDE)
    inside = [(pixel >= place[:, k, None]) & (pixel < place[:, k, None] + 4) for k in range(2)]
    bright = torch.rand(rows, 1, 1, generator=generator)
    theta = (inside[0][:, :, None] & inside[1][:, None, :]) * (1 + bright) - 1
    noise = 0.3 * torch.randn(theta.shape, generator=generator)
    return Batch(theta.flatten(1), {"x": theta + noise})


def make(method: str, network: str = "image_unet", **given: object) -> Estimator:
    """Return an untrained estimator; one mean and one scale serve all pixels."""
    torch.manual_seed(0)
    problem = InferenceProblem(
        tuple(f"p{i}" for i in range(SIDE**2)),
        (-1.0,) * SIDE**2,
        (1.0,) * SIDE**2,
        {"x": (SIDE, SIDE)},
        groups=(0,) * SIDE**2,
    )
    settings = {"network": network, "input_scale": 1.0, **NETWORKS[network], **METHODS[method]}
    return build(method, problem, {**settings, **given})


def loop_of(method: str, network: str = "image_unet", *, steps: int, **given: object) -> Loop:
    """Return a training of `steps` steps."""
    estimator, batch = make(method, network), images(400, 0)
    estimator.standardise(batch.theta, batch.x)
    values = {
        "steps": steps,
        "learning_rate": 3e-3,
        "weight_decay": 1e-4,
        "warmup": 0.1,
        "clip": 1.0,
        "ema": 0.9,
        "validate_every": 20,
        "patience": None,
        "amp": False,
        "seed": 3,
    }
    return Loop(estimator, Hyperparameters(**{**values, **given}), images(16, 1), Ranks())


class Keeper:
    """Saves and stops at one step."""

    def __init__(self, stop: int = 10**9) -> None:
        self.stop, self.state = stop, {}

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        stop = loop.step >= self.stop
        return stop, stop, 1

    def save(self, loop: Loop) -> None:
        self.state = copy.deepcopy(loop.state())


def run(loop: Loop, stop: int = 10**9) -> Keeper:
    keeper = Keeper(stop)
    batches = ResidentBatches(images(400, 0), Order(3, 16)).batches(loop.step)
    loop.run(batches, keeper)
    batches.close()
    return keeper


@pytest.mark.parametrize("method", METHODS)
def test_with_all_options_a_training_continues_exactly(method: str) -> None:
    options = {"steps": 12, "amp": True, "accumulate": 2, "validate_every": 5}
    whole = loop_of(method, **options)
    run(whole)
    for stop in (4, 9):
        state = run(loop_of(method, **options), stop).state
        continued = loop_of(method, **options)
        with torch.no_grad():
            for parameter in continued.estimator.parameters():
                parameter.fill_(9.0)  # what the state must replace
        continued.load(state)
        run(continued)
        assert continued.step == 12
        expected = whole.estimator.state_dict()
        for name, value in continued.estimator.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_serves_every_method(method: str, network: str) -> None:
    loop = loop_of(method, network, steps=4)
    run(loop)
    loop.finish()
    test = images(3, 2)
    draws = loop.estimator.posterior().sample(test.x, 5, seed=0)
    assert draws.shape == (3, 5, SIDE**2)
    assert draws.isfinite().all()
    assert draws.abs().max() <= 1
    assert not torch.allclose(draws[0, 0], draws[0, 1])


@pytest.fixture(scope="module")
def learned() -> Estimator:
    """A denoiser after 800 steps."""
    loop = loop_of("npse", steps=800, validate_every=800)
    run(loop)
    loop.finish()
    return loop.estimator


def test_draws_are_closer_to_the_truth_than_the_observation_is(learned: Estimator) -> None:
    test = images(60, 2)
    draws = learned.posterior().sample(test.x, 8, sampling_steps=8, seed=0)
    error = rmse(draws, test.theta)
    assert error < 0.85 * rmse(test.x["x"].flatten(1).unsqueeze(1), test.theta)
    assert error < 0.4 * rmse(draws, test.theta.roll(1, 0))
    mean = draws.mean(1, keepdim=True)
    assert rmse(mean, test.theta) < 0.85 * error  # draws differ, and their mean is better


def test_draws_spread_as_far_as_their_mean_is_wrong(learned: Estimator) -> None:
    test = images(60, 3)
    draws = learned.posterior().sample(test.x, 16, sampling_steps=8, seed=0)
    spread = float(draws.var(1).mean().sqrt())
    error = float((draws.mean(1) - test.theta).square().mean().sqrt())
    assert 0.75 < spread / error < 1.2


def test_draws_that_do_not_fit_into_memory_say_how_many_do(learned: Estimator) -> None:
    whole, narrow = learned.sample_latent, copy.copy(learned)

    def limited(context: Tensor, *given: object) -> Tensor:
        if len(context) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. More words.")
        return whole(context, *given)  # type: ignore[arg-type]

    narrow.sample_latent = limited  # type: ignore[method-assign]
    posterior, x = narrow.posterior(), images(4, 2).x
    assert posterior.sample(x, 2, seed=0).shape == (4, 2, SIDE**2)
    says = (
        r"40 draws are made at a time \(CUDA out of memory\); 10 fit: make at most 10 in one call"
    )
    with pytest.raises(MemoryError, match=says):
        posterior.sample(x, 10, seed=0)


def test_an_image_of_another_size_is_refused() -> None:
    posterior = make("npse").posterior()
    with pytest.raises(ValueError, match=r"x\['x'\] has shape \(1, 9, 8\); valid is \(B, 8, 8\)"):
        posterior.sample({"x": torch.zeros(1, 9, 8)}, 2)


def rmse(draws: Tensor, theta: Tensor) -> float:
    return float((draws - theta.unsqueeze(1)).square().mean((1, 2)).sqrt().mean())
