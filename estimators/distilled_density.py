"""A density for a posterior that has only draws: a flow fitted to them.

With q the flow, x_1 ... x_B given observations, and theta drawn from the posterior:

    loss = -E log q(theta | x_b),   theta ~ p(theta | x_b),   b uniform

At its minimum q is the posterior of the teacher, whose draws take any number of passes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import estimators
from estimators.checks import renamed, within
from estimators.posterior import Posterior
from estimators.sampling_steps import SamplingSteps

POOL = 16_384  # draws from which batches are taken
ROUNDS = 8  # fresh pools in a training


def distil(
    posterior: Posterior,
    x: Mapping[str, ArrayLike],
    *,
    sampling_steps: SamplingSteps = None,
    estimator: str = "nsf_autoregressive",
    arguments: Mapping[str, Any] | None = None,
    updates: int = 2000,
    batch: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
    steps: SamplingSteps = None,
) -> Posterior:
    """Return a posterior with a density, fitted to the draws of one that has none.

    Arguments:
        posterior: the teacher.
        x: observations, each of shape (B, ...): those of the training for a density at every x, or a
            single one for a density there.
        sampling_steps: network passes of the teacher's draws.
        estimator: what is fitted; it must have a density.
        arguments: its own settings.
        updates: steps of the optimiser.
        batch: draws in a step.
        learning_rate: at the start; it falls to zero as a cosine.
        seed: of everything random.
        steps: the former name of `sampling_steps`.

    Raises:
        LookupError, TypeError, ValueError: an argument that is not valid.
    """
    if steps is not None:
        sampling_steps = renamed("steps", steps, "sampling_steps")
    within("updates", updates, ROUNDS, integer=True)
    within("batch", batch, 1, integer=True)
    within("learning_rate", learning_rate, 0)
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in x.items()}
    device = next(posterior.module.parameters()).device
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"x\[.* the same in all")  # a single x is constant
        torch.manual_seed(seed)
        pool = _pool(posterior, arrays, sampling_steps, seed)
        problem = posterior.module.problem
        student = estimators.create(
            estimator,
            pool[0].cpu(),
            {name: values.cpu() for name, values in pool[1].items()},
            low=problem.low,
            high=problem.high,
            names=problem.names,
            scales=problem.scales or None,
            preprocessing=problem.preprocessing,
            kinds=problem.kinds,
            simplexes=problem.simplexes,
            **(arguments or {}),
        ).to(device)
        optimiser = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
        total = updates // ROUNDS * ROUNDS
        student.train()
        for update in range(total):
            if update and update % (total // ROUNDS) == 0:
                pool = _pool(posterior, arrays, sampling_steps, seed + update)
            rate = 0.5 * learning_rate * (1 + math.cos(math.pi * update / total))
            optimiser.param_groups[0]["lr"] = rate
            rows = torch.randint(len(pool[0]), (batch,), device=device)
            optimiser.zero_grad()
            part = {name: values[rows] for name, values in pool[1].items()}
            student.loss(pool[0][rows], part, update / total).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimiser.step()
    passes = list(sampling_steps) if isinstance(sampling_steps, Sequence) else sampling_steps
    provenance = {
        "distilled_from": posterior.estimator,
        "sampling_steps": passes,
        "observations": len(next(iter(arrays.values()))),
        "teacher": copy.deepcopy(posterior.provenance),
    }
    return Posterior(student.eval(), provenance)


def _pool(
    posterior: Posterior, x: Mapping[str, np.ndarray], sampling_steps: SamplingSteps, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return about POOL draws (rows, D) with the observation of each of them."""
    count = len(next(iter(x.values())))
    chosen = np.arange(count)
    if count > POOL:
        chosen = np.random.default_rng(seed).choice(count, POOL, replace=False)
    each = max(1, POOL // len(chosen))
    part = {name: values[chosen] for name, values in x.items()}
    theta = (
        posterior.sample(part, each, sampling_steps=sampling_steps, seed=seed).flatten(0, 1).clone()
    )
    outputs = {
        name: torch.tensor(values, device=theta.device).repeat_interleave(each, dim=0)
        for name, values in part.items()
    }
    return theta, outputs
