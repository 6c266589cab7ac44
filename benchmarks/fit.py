"""Train an estimator on rows in memory, by the pipeline's own loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import estimators
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import Batch
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop, Supervisor
from pipeline.train.ranks import Ranks
from pipeline.train.row_weights import prior_weights
from simulators import Prior


@dataclass(frozen=True)
class TrainingSettings:
    """An estimator with its arguments and how it is trained; the share of rows kept for validation."""

    estimator: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 20_000
    batch: int = 64
    rate: float = 2e-3
    decay: float = 1e-4
    warmup: float = 0.01
    clip: float | None = None
    ema: float = 0.999
    validation: float = 0.05
    patience: int | None = None
    prior_weights: bool = True  # where the prior has quantiles, as in the product


def fit(
    settings: TrainingSettings,
    prior: Prior,
    theta: np.ndarray,
    x: Mapping[str, np.ndarray],
    seed: int,
    supervisor: Supervisor | None = None,
) -> tuple[estimators.Posterior, float]:
    """Return the trained posterior and the seconds of processor time that training took.

    Arguments:
        settings: what to train, and how.
        prior: for bounds, names and scales.
        theta: shape (n, D). x: each (n, ...).
        seed: of weights, order and noise.
        supervisor: checks the training now and then.
    """
    torch.manual_seed(seed)
    model = estimators.create(
        settings.estimator,
        theta,
        x,
        low=prior.low,
        high=prior.high,
        names=prior.names,
        scales=prior.scales,
        **settings.arguments,
    )
    hyperparameters = Hyperparameters(
        steps=settings.steps,
        learning_rate=settings.rate,
        weight_decay=settings.decay,
        warmup=settings.warmup,
        clip=settings.clip,
        ema=settings.ema,
        validate_every=max(1, settings.steps // 20),
        patience=settings.patience,
        amp=False,
        seed=seed,
    )
    kept = max(2, round(settings.validation * len(theta)))
    order = torch.as_tensor(np.random.default_rng(seed).permutation(len(theta)))
    rows = batch(theta, x)
    held_out = rows.take(order[:kept])
    weighted, trained = settings.prior_weights and prior.has_quantile, order[kept:]
    weights = prior_weights(prior.cube(theta[trained])) if weighted else None
    _, seconds = train(
        model, hyperparameters, rows.take(trained), held_out, settings.batch, supervisor, weights
    )
    return model.posterior(), seconds


def train(
    model: estimators.Estimator,
    hyperparameters: Hyperparameters,
    rows: Batch,
    held_out: Batch,
    size: int,
    supervisor: Supervisor | None = None,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Train on batches of `size` rows in memory; return the last validation loss and processor seconds."""
    if size > len(rows.theta):
        raise ValueError(f"batch = {size} is more than the {len(rows.theta)} training rows")
    loop = Loop(model, hyperparameters, held_out, Ranks())
    began = time.process_time()
    order = Order(hyperparameters.seed, size, weights=weights)
    loop.run(ResidentBatches(rows, order).batches(0), supervisor or _ProgressLine())
    seconds = time.process_time() - began
    loop.finish()
    return loop.curves[-1]["validation"], seconds


def batch(theta: np.ndarray, x: Mapping[str, np.ndarray]) -> Batch:
    """Return rows as single-precision tensors."""
    outputs = {name: torch.as_tensor(values).float() for name, values in x.items()}
    return Batch(torch.as_tensor(theta).float(), outputs)


class _ProgressLine:
    """Asks nothing of a training, and writes how far it is."""

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        step, steps = loop.step, loop.hyperparameters.steps
        print(f"\rstep {step} of {steps} ", end="", file=sys.stderr, flush=True)
        return False, False, max(1, steps // 100)

    def save(self, loop: Loop) -> None:
        raise RuntimeError("a training in memory keeps no state")
