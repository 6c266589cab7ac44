"""What an answer rests on: single outputs, and the budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from estimators import OutOfRangeWarning
from evaluation.gaussian import FittedGaussian
from evaluation.scale import on_scale
from pipeline.answer.evidence import Evidence, element_names, flattened, output_names, present
from pipeline.errors import PipelineError
from pipeline.results import DONE, Results
from pipeline.run import RunDirectory

DRAWS = 400
MOST_BLOCKS = 40  # of neighbouring elements
MOST_TRAININGS = 6


@dataclass(frozen=True)
class Sensitivity:
    """How far an answer moves, in posterior standard deviations.

    Attributes:
        outputs: largest shift of a posterior mean when an output is replaced by what the others lead to expect.
        budgets: of each training of the run: budget, estimator, posterior means and standard deviations (D,).
    """

    outputs: dict[str, float]
    budgets: list[dict[str, Any]]


def rests_on(
    evidence: Evidence,
    posterior: Any,
    x: dict[str, np.ndarray],
    scales: tuple[str, ...],
    sampling_steps: int | None,
    seed: int,
) -> dict[str, float]:
    """Return for each output, or block of neighbouring elements, how far the posterior moves without it."""
    names, outputs, observed, seen = element_names(x), output_names(x), flattened(x)[0], present(x)
    model, place = FittedGaussian(evidence.train.flat[:, seen]), np.cumsum(seen) - 1
    width = max(1, -(-len(names) // MOST_BLOCKS))
    blocks = [kept for block in _blocks(x, width) if len(kept := block[seen[block]])]
    rows = np.tile(observed, (1 + len(blocks), 1))
    for row, block in zip(rows[1:], blocks, strict=True):
        row[seen] = model.without(observed[seen], place[block])
    inputs = {n: np.repeat(v, len(rows), axis=0) for n, v in x.items() if n not in outputs}
    start = 0
    for name in outputs:
        shape = x[name].shape[1:]
        size = int(np.prod(shape))
        inputs[name] = rows[:, start : start + size].reshape(len(rows), *shape).astype(np.float32)
        start += size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        draws = posterior.sample(inputs, DRAWS, sampling_steps=sampling_steps, seed=seed)
    draws = on_scale(draws.cpu().numpy(), scales)
    mean, sd = draws.mean(axis=1), draws[0].std(axis=0)
    shift = np.abs((mean[1:] - mean[0]) / np.where(sd > 0, sd, 1.0)).max(axis=1)
    return {
        names[block[0]] if len(block) == 1 else f"{names[block[0]]} to {names[block[-1]]}": float(
            one
        )
        for block, one in zip(blocks, shift, strict=True)
    }


def _blocks(x: dict[str, np.ndarray], width: int) -> list[np.ndarray]:
    """Return the indices of neighbouring elements of one output each."""
    blocks, start = [], 0
    for name in output_names(x):
        size = int(np.prod(x[name].shape[1:]))
        blocks += [
            np.arange(first, min(first + width, start + size))
            for first in range(start, start + size, width)
        ]
        start += size
    return blocks


def by_budget(
    run: RunDirectory,
    key: str,
    x: dict[str, np.ndarray],
    scales: tuple[str, ...],
    sampling_steps: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Return means and standard deviations by the finished trainings of a run, the smallest budget first."""
    found = []
    for mark in sorted(run.path.glob(f"trainings/*/{DONE}")):
        try:
            posterior = Results(run, mark.parent.name).load()
            steps = sampling_steps if posterior.sampling_steps is not None else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OutOfRangeWarning)
                draws = posterior.sample(x, 2 * DRAWS, sampling_steps=steps, seed=seed)
        except (PipelineError, ValueError):  # of other outputs, or damaged: not compared
            continue
        rows = on_scale(draws.cpu().numpy()[0], scales)
        found.append(
            {
                "training": mark.parent.name,
                "budget": posterior.provenance.get("budget", 0),
                "estimator": posterior.estimator,
                "mean": rows.mean(0).tolist(),
                "sd": rows.std(0).tolist(),
                "used": mark.parent.name == key,
            }
        )
    found.sort(key=lambda one: (one["budget"], one["training"]))
    return found[-MOST_TRAININGS:]
