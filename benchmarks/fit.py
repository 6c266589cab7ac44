"""Train an estimator on rows in memory, by the pipeline's own loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import estimators
from pipeline.dataset import Batch
from pipeline.training.loop import Loop, Recipe, Team
from simulators import Prior


@dataclass(frozen=True)
class Plan:
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


class _Watch:
    def look(self, loop: Loop) -> tuple[bool, bool, int]:
        return False, False, 500

    def save(self, loop: Loop) -> None:
        raise AssertionError("nothing asked for a state")


def fit(
    plan: Plan, prior: Prior, theta: np.ndarray, x: Mapping[str, np.ndarray], seed: int
) -> tuple[estimators.Posterior, float]:
    """Return the trained posterior and the seconds of processor time that training took.

    Arguments:
        plan: what to train, and how.
        prior: for bounds, names and scales.
        theta: shape (n, D). x: each (n, ...).
        seed: of weights, order and noise.
    """
    torch.manual_seed(seed)
    model = estimators.create(
        plan.estimator,
        theta,
        x,
        low=prior.low,
        high=prior.high,
        names=prior.names,
        scales=prior.scales,
        **plan.arguments,
    )
    rows = Batch(
        torch.as_tensor(theta, dtype=torch.float32),
        {name: torch.as_tensor(values, dtype=torch.float32) for name, values in x.items()},
    )
    kept = max(2, round(plan.validation * len(theta)))
    recipe = Recipe(
        steps=plan.steps,
        learning_rate=plan.rate,
        weight_decay=plan.decay,
        warmup=plan.warmup,
        clip=plan.clip,
        ema=plan.ema,
        validate_every=max(1, plan.steps // 20),
        patience=plan.patience,
        amp=False,
        seed=seed,
    )
    order = np.random.default_rng(seed).permutation(len(theta))
    loop = Loop(model, recipe, rows.take(torch.as_tensor(order[:kept])), Team())
    began = time.process_time()
    loop.run(_batches(rows, order[kept:], plan.batch, seed), _Watch())
    seconds = time.process_time() - began
    loop.finish()
    return model.posterior(), seconds


def _batches(rows: Batch, kept: np.ndarray, size: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    if size > len(kept):
        raise ValueError(f"batch = {size} is more than the {len(kept)} training rows")
    while True:
        order = torch.as_tensor(rng.permutation(kept))
        for index in order[: len(order) // size * size].split(size):
            yield rows.take(index)
