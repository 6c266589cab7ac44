"""Bayesian denoising of Fashion-MNIST: error, calibration and cost of each network and method.

    python -m benchmarks.images                 2000 images, short trainings: minutes
    python -m benchmarks.images --full          2000 images as long as in the paper: hours
    python -m benchmarks.images --full --all    60 000 images: for a GPU, with --gpu
    python -m benchmarks.images --minutes 8     2000 images (60 000 with --all), as many steps as take this
                                                processor time
    python -m benchmarks.images --cost          what a step costs, without any training

Each line is a run in `runs/images`, made by `sbiflow run`; a repeat continues it. Prints one JSON line for
each, then a table.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

import simulators
from benchmarks.images.baseline import ridge
from benchmarks.images.cells import CELLS, FULL, FULL_ALL, MEDIUM, Plan, config
from benchmarks.images.cost import cost, matmul_rate
from benchmarks.images.data import observed, training_images
from benchmarks.images.run import FOLDER, completed
from evaluation.features import trained
from evaluation.image_scores import class_calibration, rmse_image
from simulators.data_prior import TEST, TRAIN, DataPrior

RIDGE_IMAGES = 6000
RMSE_IMAGES = 100  # test images of the RMSE, as in the paper; all others count for calibration
CLASSIFIED = 10_000  # labelled images that the classifier learns from
COLUMNS = (
    "rmse", "published", "coverage_50", "coverage_90", "sbc_outside", "overconfidence",
    "mmd", "frechet", "ms_per_draw", "step_s", "step_over_limit", "peak_gb",
)  # fmt: skip


def measure(name: str, plan: Plan, seed: int, gpu: bool) -> dict[str, Any]:
    """Train and evaluate a line of the table; return its numbers."""
    folder = FOLDER / plan.name / f"{name.replace(' ', '-')}-{seed}"
    try:
        results, costs = completed(folder, config(name, plan, seed, gpu))
    except RuntimeError as error:
        return {"cell": name, "seed": seed, "error": str(error)}
    found, arrays = results.evaluated(), results.draws()
    assert found is not None
    assert arrays is not None
    metrics = found["metrics"]
    (draws,) = [values for key, values in arrays.items() if key.startswith("draws_")]
    error = rmse_image(arrays["theta"][:RMSE_IMAGES], draws[:RMSE_IMAGES])
    published = CELLS[name].published
    return {
        "cell": name,
        "seed": seed,
        "rmse": error.mean,
        "rmse_sem": error.sem,
        "published": published and published[plan.budget == FULL_ALL.budget],
        "coverage_50": metrics["coverage_pixels"]["coverage_50"],
        "coverage_90": metrics["coverage_pixels"]["coverage_90"],
        "sbc_outside": len(metrics["sbc_image"]["outside"]),
        "mmd": metrics["mmd_images"]["mean"],
        "mmd_floor": metrics["mmd_images"]["floor"],
        "frechet": metrics["frechet_images"]["mean"],
        "frechet_floor": metrics["frechet_images"]["floor"],
        "kernel": metrics["kernel_images"]["mean"],
        "kernel_floor": metrics["kernel_images"]["floor"],
        "passes": metrics["rmse_image"]["sampling_steps"],
        "ms_per_draw": metrics["seconds"]["median"],
        **costs,
        **_classes(arrays["theta"], draws, plan),
    }


def _classes(theta: np.ndarray, draws: np.ndarray, plan: Plan) -> dict[str, float]:
    """Return how sure the draws are of the class, by a classifier that nothing else uses."""
    if plan.size != 28:
        return {}
    classifier = trained(*training_images(CLASSIFIED), seed=1, cache=FOLDER)
    drawn = classifier.classes(draws.reshape(-1, draws.shape[2])).reshape(draws.shape[:2])
    found = class_calibration(classifier.classes(theta), drawn)
    return {
        "overconfidence": found.overconfidence,
        "overconfidence_sem": found.sem,
        "class_accuracy": found.accuracy,
    }


def linear(plan: Plan) -> dict[str, Any]:
    """Return what the linear posterior mean reaches on the first 100 test images."""
    prior = simulators.load("fashion_denoising", size=plan.size).prior
    assert isinstance(prior, DataPrior)
    train, test = prior.rows(TRAIN, np.arange(RIDGE_IMAGES)), prior.rows(TEST, np.arange(100))
    return {"cell": "linear", **ridge(observed(train, plan.size, 1), observed(test, plan.size, 2))}


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as lines of text, a dash where there is no number."""

    def shown(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, int | float) else "–"

    lines = [" ".join([f"{'':28}", *(f"{name:>15}" for name in COLUMNS)])]
    for one in results:
        label = f"{one['cell']} {one.get('seed', '')}"
        lines.append(" ".join([f"{label:28}", *(f"{shown(one.get(c)):>15}" for c in COLUMNS)]))
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="trainings as long as the paper's")
    parser.add_argument(
        "--all", action="store_true", help="60 000 images, with --full or --minutes"
    )
    parser.add_argument("--cost", action="store_true", help="only what a step costs")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU")
    parser.add_argument("--size", type=int, choices=(28, 56), default=28)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="of each training")
    length.add_argument("--minutes", type=float, help="of processor time of each training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", nargs="*", choices=list(CELLS), default=list(CELLS))
    asked = parser.parse_args()
    plan = (FULL_ALL if asked.all else FULL) if asked.full else Plan()
    if asked.minutes is not None:
        plan = replace(MEDIUM, budget=FULL_ALL.budget if asked.all else MEDIUM.budget)
    plan = replace(plan, size=asked.size)
    plan = replace(plan, steps=asked.steps or plan.steps)
    torch.set_num_threads(1)
    device = "cuda" if asked.gpu else "cpu"
    rate = matmul_rate(device)
    print(json.dumps({"plan": asdict(plan), "matmul_gflops": rate / 1e9, "device": device}))
    results = []
    if not asked.cost:
        results.append(linear(plan))
        print(json.dumps(results[-1]), flush=True)
    for name in asked.cells:
        costs = cost(name, plan, rate, device)
        if asked.minutes is not None:
            steps = max(1, round(asked.minutes * 60 / costs["step_s"]))
            plan = replace(plan, steps=steps, minutes=asked.minutes)
        for seed in range(1, 1 + (1 if asked.cost else asked.seeds)):
            found = {"cell": name} if asked.cost else measure(name, plan, seed, asked.gpu)
            results.append({**found, **costs})
            print(json.dumps(results[-1]), flush=True)
    print(table(results))
    sys.exit(any("error" in one for one in results))


if __name__ == "__main__":
    main()
