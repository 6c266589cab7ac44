"""A trial of an estimator on a few rows: a step of each phase and a draw, before anything long begins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch

from estimators import Estimator
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.train.dataset import Batch
from pipeline.train.setup import build
from simulators import Prior

ROWS = 16
JITTER = 1e-2  # relative, between rows that come from one simulation


def try_estimator(
    config: Config, prior: Prior, x: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> None:
    """Train and draw on a few rows as training and evaluation will.

    Arguments:
        config: the whole configuration.
        prior: of the parameters.
        x: outputs of one or more simulations, each (n, ...).
        lengths: of the outputs of varying length, each (n,).

    Raises:
        UsageError: the estimator cannot be built, or cannot learn or draw; the message names the outputs.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows are so similar that outputs count as constant
        torch.manual_seed(0)
        sample = rows_like(prior, x, lengths)
        try:
            model = build(config, prior, prior.names, sample)
            _learn(model, sample)
            _draw(model, sample, config.evaluate.all_sampling_steps)
        except UsageError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {tuple(v.shape[1:])}" for name, v in sample.x.items())
            raise UsageError(
                f"estimator {config.estimator.name!r} fails on outputs of shapes {shapes}: "
                f"{type(error).__name__}: {error}"
            ) from error


def rows_like(
    prior: Prior, x: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray], n: int = ROWS
) -> Batch:
    """Return n rows as in training: float32, outputs of varying length padded, with their masks."""
    theta = np.asarray(prior.sample(np.random.default_rng(0), n), np.float32)
    columns: dict[str, torch.Tensor] = {}
    for name, values in x.items():
        repeated = np.resize(values, (n, *values.shape[1:])).astype(np.float32)
        if name in lengths:
            longest = max(1, values.shape[1])
            repeated = np.resize(repeated, (n, longest, *values.shape[2:]))
            present = np.resize(lengths[name], n)[:, None]
            columns[f"{name}_mask"] = torch.from_numpy(
                (np.arange(longest) < present).astype(np.float32)
            )
        known = torch.nan_to_num(torch.from_numpy(repeated), posinf=np.inf, neginf=-np.inf)
        columns[name] = known * (1 + JITTER * torch.rand_like(known))
    return Batch(torch.from_numpy(theta), columns)


def _learn(model: Estimator, rows: Batch) -> None:
    """Compute the gradient of one step of each phase, without changing a weight."""
    for number, phase in enumerate(model.phases):
        if number:
            model.begin(number)
        if phase.replay:
            loss = model.replay_loss(model.examples(rows.theta, rows.x))
        else:
            loss = model.loss(rows.theta, rows.x, sum(p.share for p in model.phases[:number]))
        loss.backward()


def _draw(model: Estimator, rows: Batch, sampling_steps: tuple[int, ...]) -> None:
    """Draw for one observation with each number of sampling steps."""
    posterior = model.eval().posterior()
    x = {name: values[:1].numpy() for name, values in rows.x.items()}
    for steps in sampling_steps if posterior.sampling_steps is not None else (None,):
        posterior.sample(x, 2, sampling_steps=steps, seed=0)
