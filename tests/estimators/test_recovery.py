"""Every estimator finds the closed-form posterior of `gaussian_linear`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import estimators
import simulators
from benchmarks.fit import batch, train
from estimators.estimator import Estimator
from evaluation.c2st import c2st_batch
from pipeline.train.hyperparameters import Hyperparameters

FAST = {  # settings and steps of the optimiser
    "acf": ("acf", {"transforms": 2, "hidden": [32], "dropout": 0.0}, 300),
    "ensemble": (
        "ensemble",
        {"member": "acf", "members": 2, "arguments": {"transforms": 1, "hidden": [32]}},
        300,
    ),
    "nsf_autoregressive": ("nsf_autoregressive", {"transforms": 1, "hidden": [32]}, 300),
}
QUICK = {
    "cmpe_distilled": ("cmpe_distilled", {"members": 1, "width": 64, "depth": 2}, 1500),
}
SLOW = {
    "acf": ("acf", {}, 2000),
    "cmpe": ("cmpe", {"input_scale": 1.0}, 10_000),
    "cmpe-adaptive": ("cmpe", {"input_scale": 1.0, "network": "adaptive_mlp"}, 10_000),
    "cmpe_distilled": ("cmpe_distilled", {"members": 2}, 8000),
    "ensemble": ("ensemble", {"member": "fmpe", "members": 2}, 4000),
    "fmpe": ("fmpe", {}, 6000),
    "fmpe-transformer": ("fmpe", {"network": "transformer"}, 4000),
    "nsf": ("nsf", {"transforms": 3, "bins": 8}, 2000),
    "nsf_autoregressive": ("nsf_autoregressive", {}, 2000),
    "npse": ("npse", {"members": 1}, 4000),
}


def simulate(dim: int, n: int, seed: int) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
    simulator = simulators.load("gaussian_linear", dim=dim)
    rng = np.random.default_rng(seed)
    theta = simulator.prior.sample(rng, n)
    return simulator, theta, simulator.simulate_block(theta, rng)


def fit(
    name: str, arguments: dict, steps: int, theta: np.ndarray, x: dict[str, np.ndarray]
) -> Estimator:
    """Return an estimator trained by the pipeline's loop."""
    torch.manual_seed(0)
    model = estimators.create(name, theta, x, **arguments)
    hyperparameters = Hyperparameters(
        steps=steps,
        learning_rate=2e-3,
        weight_decay=1e-4,
        warmup=0.01,
        clip=None,
        ema=0.999,
        validate_every=steps // 10,
        patience=None,
        amp=False,
        seed=0,
    )
    rows, held_out = torch.arange(len(theta)).split([len(theta) - 200, 200])
    train(model, hyperparameters, batch(theta, x).take(rows), batch(theta, x).take(held_out), 256)
    return model


@pytest.mark.parametrize("case", FAST)
def test_density_and_draws_are_about_those_of_the_posterior(case: str) -> None:
    """theta | x ~ N(x / 2, 0.05 I)."""
    name, arguments, steps = FAST[case]
    _, theta, x = simulate(2, 4000, seed=0)
    posterior = fit(name, arguments, steps, theta, x).posterior()
    _, truth, observed = simulate(2, 50, seed=1)
    draws = posterior.sample(observed, 1000, seed=0).numpy()
    assert np.abs(draws.mean(1) - observed["x"] / 2).mean() < 0.03
    assert draws.std(1).mean() == pytest.approx(math.sqrt(0.05), rel=0.1)
    ours = posterior.log_prob(truth[:, None], observed)[:, 0].double()
    exact = torch.distributions.Normal(torch.tensor(observed["x"]) / 2, math.sqrt(0.05))
    assert (exact.log_prob(torch.tensor(truth)).sum(1) - ours).mean().abs() < 0.1


def score(case: tuple[str, dict, int], dim: int, rows: int, sets: int, draws: int) -> float:
    """Return the mean C2ST of an estimator's draws against those of the posterior."""
    name, arguments, steps = case
    simulator, theta, x = simulate(dim, rows, seed=0)
    posterior = fit(name, arguments, steps, theta, x).posterior()
    _, _, observed = simulate(dim, sets, seed=1)
    rng = np.random.default_rng(2)
    reference = [simulator.reference({"x": row}, draws, rng) for row in observed["x"]]
    ours = posterior.sample(observed, draws, seed=0).double().numpy()
    return float(c2st_batch(np.stack(reference), ours).mean())


@pytest.mark.parametrize("case", QUICK)
def test_a_small_network_finds_the_posterior_of_two_parameters(case: str) -> None:
    assert score(QUICK[case], dim=2, rows=8000, sets=6, draws=500) <= 0.55


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_a_classifier_hardly_tells_draws_from_the_posterior(case: str) -> None:
    assert score(SLOW[case], dim=3, rows=20_000, sets=10, draws=1000) <= 0.55
