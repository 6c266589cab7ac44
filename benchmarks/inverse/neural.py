"""Neural operators with a trained prior: consistency on the used and on a held-out operator, and image quality."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inverse.networks import labelled, operator_of, test_images
from benchmarks.inverse.record import MeasuredLog
from estimators.inverse import EstimatorPrior, Operator, create
from estimators.inverse.linear import downsample
from evaluation.features import feature_network
from evaluation.population import frechet, kernel_distance

STEP_SIZES = (1.0, 3.0, 10.0, 30.0, 100.0)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "unguided": ("dps", {"step_size": 0.0}),
    "dps": ("dps", {}),
    "lgd_mc": ("lgd_mc", {"tau": 0.2}),
    "dps_ode": ("dps_ode", {}),
    "cm_guidance 0": ("cm_guidance", {"tau": 0.0}),
    "cm_guidance 0.2": ("cm_guidance", {"tau": 0.2}),
    "cm_inversion": ("cm_inversion", {}),
    "cm_smc": ("cm_smc", {"particles": 8, "moves": 2, "final_moves": 4}),
    "cm_guidance 0.05": ("cm_guidance", {"tau": 0.05}),
    "cm_guidance 0.1": ("cm_guidance", {"tau": 0.1}),
    "cm_guidance 0.4": ("cm_guidance", {"tau": 0.4}),
}
SAME_SIZE = {f"cm_guidance {tau}": "cm_guidance 0.2" for tau in (0.05, 0.1, 0.4)}  # step size
LINEAR: dict[str, Callable[[], Operator]] = {"downsample": lambda: downsample(4, 0.1)}
PEAK = 2.0  # the range of grey values
FIXED = ("unguided", "cm_smc")  # without a step size to choose
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of cm_inversion, in place of step sizes


@dataclass(frozen=True)
class NeuralPlan:
    """How much of everything.

    Attributes:
        images: test images, one draw each. validation: on which step sizes are chosen. passes: of a draw.
    """

    images: int = 100
    validation: int = 12
    passes: int = 30


def run(
    task: str,
    prior: EstimatorPrior,
    plan: NeuralPlan,
    record: MeasuredLog,
    folder: Path,
    names: list[str],
) -> None:
    """Measure the variants on a neural operator; what is recorded is not measured again."""
    record.require(f"{task} ", repr(plan))
    for name in names:
        extra = tuned(task, name, prior, plan, record, folder)
        key = f"{task} {name} {plan.passes}"
        record.get(
            key, lambda n=name, e=extra: measure(task, n, e, prior, plan, folder, validation=False)
        )


def tuned(
    task: str, name: str, prior: EstimatorPrior, plan: NeuralPlan, record: MeasuredLog, folder: Path
) -> dict[str, Any]:
    """Return the step size of the best agreement with the held-out operator on validation images."""
    name = SAME_SIZE.get(name, name)
    if name in FIXED:
        return {}
    tried = [{"step_size": s} for s in (RATES if name == "cm_inversion" else STEP_SIZES)]

    def value(extra: dict[str, Any]) -> float:
        key = f"{task} {name} {plan.passes} validation {json.dumps(extra)}"
        found = record.get(
            key, lambda: measure(task, name, extra, prior, plan, folder, validation=True)
        )
        return float(np.mean(found["held_out"]))

    return max(tried, key=value)


def measure(
    task: str,
    name: str,
    extra: dict[str, Any],
    prior: EstimatorPrior,
    plan: NeuralPlan,
    folder: Path,
    *,
    validation: bool,
) -> dict[str, Any]:
    """Return the agreement of one draw for each image with both operators, and what the draws look like."""
    count = plan.validation if validation else plan.images
    images = test_images()[0][5000:][:count] if validation else test_images()[0][:count]
    used, other = (_operator(task, h, folder) for h in (False, True))
    y = used(images, 0)
    method, given = VARIANTS[name]
    settings = given if name == "cm_smc" else {"passes": plan.passes, **given}
    solver = create(method, prior, **{**settings, **extra})
    start = time.process_time()
    solution = solver.solve(y, used, 1, 0)
    seconds = time.process_time() - start
    draws = solution.draws[:, 0]
    truth = other(images, 0) if task == "embedding" else y
    if task in LINEAR:
        y = truth = used.A(images)
    return {
        "settings": extra,
        "used": _agreement(used, y, draws),
        "held_out": _agreement(other, truth, draws),
        **(
            {"iou": [intersection(f, y, draws) for f in (used, other)]}
            if task == "segmenter"
            else {}
        ),
        "passes": solution.passes,
        "gradients": solution.gradients,
        "seconds": seconds / count,
        **({} if validation else quality(draws, folder)),
    }


def _operator(task: str, held_out: bool, folder: Path) -> Operator:
    if task in LINEAR:
        return LINEAR[task]()
    return operator_of(task, held_out=held_out, folder=folder)


@torch.no_grad()
def _agreement(operator: Operator, y: Tensor, draws: Tensor) -> list[float]:
    """Return the agreement of each draw; of linear operators the peak signal-to-noise ratio in dB."""
    f = operator.A(draws)
    if operator.linear:
        values = -10 * ((y - f).square().flatten(1).mean(1) / PEAK**2).log10()
    else:
        values = operator.noise_model.agreement(y, f)
    return [float(value) for value in values]


@torch.no_grad()
def intersection(operator: Operator, y: Tensor, draws: Tensor) -> list[float]:
    """Return the intersection over union of each draw's map with y, mean over the classes of y."""
    found = operator.A(draws).argmax(1)
    values = []
    for one, other in zip(found, y, strict=True):
        shares = [
            ((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum()
            for k in other.unique()
        ]
        values.append(float(torch.stack(shares).mean()))
    return values


def quality(draws: Tensor, folder: Path) -> dict[str, float]:
    """Return Frechet and kernel distance to real images, in features of a network used for nothing else."""
    network = feature_network(labelled()[0][5000:].numpy(), folder)
    real = network.features(test_images()[0][1000:5000].numpy())
    spread = real.std(0) + 1e-6
    drawn = network.features(draws.numpy()) / spread
    return {
        "frechet": frechet(drawn, real / spread),
        "kernel": kernel_distance(drawn, real / spread),
    }
