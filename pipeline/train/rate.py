"""How long an optimiser step takes, measured on a few rows before anything is trained."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping

import numpy as np
import torch

from estimators import Estimator
from pipeline.config import Config
from pipeline.train.dataset import Batch
from pipeline.train.setup import build
from pipeline.train.threads import threads
from pipeline.train.trial import rows_like
from simulators import Prior

WARM, LEAST, SECONDS = 2, 5, 1.0  # steps that do not count, steps that do at least, for so long


def seconds_per_step(
    config: Config, prior: Prior, x: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> float:
    """Return the seconds of an optimiser step on this machine, without reading rows and validation.

    Arguments:
        config: the whole configuration.
        prior: of the parameters.
        x: outputs of one or more simulations, each (n, ...).
        lengths: of the outputs of varying length, each (n,).
    """
    with torch.random.fork_rng(), warnings.catch_warnings(), threads(config.train.threads):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        rows = rows_like(prior, x, lengths, config.train.batch_size)
        model = build(config, prior, prior.names, rows).train()
        return sum(phase.share * _phase(model, rows, k) for k, phase in enumerate(model.phases))


def _phase(model: Estimator, rows: Batch, number: int) -> float:
    """Return the median seconds of a step of a phase."""
    phase = model.phases[number]
    before = sum(earlier.share for earlier in model.phases[:number])
    if number:
        model.begin(number)
    examples = model.examples(rows.theta, rows.x) if phase.replay else None
    optimiser = torch.optim.AdamW(phase.parameters, lr=1e-6)
    spent: list[float] = []
    while len(spent) < WARM + LEAST or sum(spent) < SECONDS:
        started = time.perf_counter()
        optimiser.zero_grad()
        loss = (
            model.loss(rows.theta, rows.x, before)
            if examples is None
            else model.replay_loss(examples)
        )
        loss.backward()
        optimiser.step()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[WARM:])
