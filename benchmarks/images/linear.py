"""A trained posterior of many parameters beside the exact one: the linear-Gaussian image.

    python -m benchmarks.images.linear [--size 28] [--steps 4000] [--cell NAME]

For the test images i, draws s and cosine coefficients k of `simulators.linear_gaussian_image`, whose posterior
is w_k | x ~ N(m_k, v_k) with the spread root(mean_k v_k):

    mean error   root of mean_i,k (mean_s w_isk - m_ik)^2 - v_k / n
    spectrum     mean_i var_s w_isk / v_k, by bands of the frequency |k|; 1 is exact
    coverage     of the central 50 % and 90 % intervals of the pixels

and the same of exact draws, of equal number. Each line is a run in `runs/images/linear`; a repeat continues it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.images.cells import CELLS, MEDIUM, Plan, config
from benchmarks.images.run import FOLDER, completed
from evaluation.image_scores import coverage_pixels
from simulators.linear_gaussian_image import (
    linear_gaussian_image,
    squared_frequencies,
    to_cosines,
)

BANDS = (0.0, 2.0, 4.0, 8.0, 16.0, math.inf)  # of |k|, for 28 pixels; with the size for others
PLAN = replace(MEDIUM, budget=20_000, test=200, draws=50, steps=4000, most_rows=10**9)


def compared(simulator: Any, theta: np.ndarray, x: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Return how draws (B, n, D) differ from the exact posterior of images theta (B, D) seen as x (B, N, N)."""
    size, n = simulator.size, draws.shape[1]
    w = to_cosines(draws.reshape(*draws.shape[:2], size, size).astype(np.float64))
    mean, variance = simulator.posterior(x.astype(np.float64))
    error = np.square(w.mean(1) - mean).mean() - variance.mean() / n
    ratio = w.var(1, ddof=1).mean(0) / variance
    frequency = np.sqrt(squared_frequencies(size)) * 28 / size
    covered = coverage_pixels(theta, draws)
    return {
        "mean_error": math.copysign(math.sqrt(abs(error)), error),
        "spread": math.sqrt(variance.mean()),
        "variance": float(w.var(1, ddof=1).mean() / variance.mean()),
        "spectrum": [
            round(float(ratio[(frequency >= low) & (frequency < high)].mean()), 3)
            for low, high in itertools.pairwise(BANDS)
        ],
        "coverage_50": covered.coverage_50,
        "coverage_90": covered.coverage_90,
    }


def settings(name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Return the configuration of a line: that of the denoising experiment with another simulator."""
    given = config(name, plan, seed, gpu=False)
    arguments = {"size": plan.size}
    given["simulator"] = {"name": "linear_gaussian_image", "arguments": arguments}
    given["evaluate"]["metrics"] = ["rmse_image", "coverage_pixels", "seconds"]
    given["evaluate"]["reference"] = "exact"
    return given


def main() -> None:
    """Print one JSON line for the exact draws and one for the trained posterior."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--steps", type=int, default=PLAN.steps)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cell", choices=list(CELLS), default="cmpe_distilled image_unet")
    asked = parser.parse_args()
    plan = replace(PLAN, size=asked.size, steps=asked.steps)
    folder = FOLDER / "linear" / f"{plan.name}" / f"{asked.cell.replace(' ', '-')}-{asked.seed}"
    results, cost = completed(folder, settings(asked.cell, plan, asked.seed))
    arrays, found = results.draws(), results.evaluated()
    assert arrays is not None
    assert found is not None
    simulator = linear_gaussian_image.target(plan.size)
    rng = np.random.default_rng(asked.seed)
    exact = np.stack([simulator.exact({"x": x}, plan.draws, rng) for x in arrays["observed"]])
    (draws,) = [values for key, values in arrays.items() if key.startswith("draws_")]
    for name, one in (("exact", exact), (asked.cell, draws)):
        line = {"cell": name, **compared(simulator, arrays["theta"], arrays["observed"], one)}
        print(json.dumps(line if one is exact else {**line, **cost}), flush=True)


if __name__ == "__main__":
    main()
