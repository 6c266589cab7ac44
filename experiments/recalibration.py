"""What conformal recalibration gives and costs: MaxECE and interval widths, before and after.

    python -m experiments.recalibration --config configs/frontier/gaussian_linear.yaml --budget 1000
    python -m experiments.recalibration --config configs/gaussian_mixture_1024.yaml

A posterior is trained by a configuration with each share of validation rows, recalibrated on these rows,
and measured on 1000 other simulations with 500 draws: MaxECE with its band, the mean width of central
90 % intervals in prior standard deviations, and the energy score in standardised parameters.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import estimators
import evaluation
from benchmarks.estimators import CALIBRATION, SBIBM, Benchmark, Definition, Task, settings_of
from benchmarks.fit import fit
from pipeline.config import build, override, read

SETS, DRAWS = 1000, 500


def main() -> None:
    """Train, recalibrate and measure; print a line for each share of validation rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--validation", nargs="+", type=float, default=[0.05, 0.2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], help="settings, KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = build(override(read(asked.config), asked.set))
    budget = asked.budget or config.budget
    task = Task(config.simulator.name, (budget,), {"sbibm": Definition(SBIBM, DRAWS)})
    bench = Benchmark(task, Path("runs/references"))
    truth, x = bench._rows(SETS, CALIBRATION, 0)
    spread = bench.prior_draws.std(0)
    for seed in asked.seeds:
        theta, rows = bench.simulations(budget, seed)
        for share in asked.validation:
            plan = replace(settings_of(config), validation=share)
            posterior, _ = fit(plan, bench.simulator.prior, theta, rows, seed)
            kept = max(2, round(share * budget))  # as `fit` chooses them
            held = np.random.default_rng(seed).permutation(budget)[:kept]
            estimators.recalibrate(
                posterior,
                theta[held],
                {name: values[held] for name, values in rows.items()},
                sampling_steps=[asked.passes],
            )
            line = {"task": config.name, "budget": budget, "seed": seed, "rows": len(held)}
            for name, calibrated in (("before", False), ("after", True)):
                drawn = posterior.sample(
                    x, DRAWS, sampling_steps=asked.passes, seed=1, calibrated=calibrated
                )
                line[name] = _measured(posterior, truth, drawn, spread)
            print(json.dumps(line), flush=True)


def _measured(
    posterior: estimators.Posterior, truth: np.ndarray, drawn: torch.Tensor, spread: np.ndarray
) -> dict[str, float]:
    draws = drawn.numpy().astype(float)
    found = evaluation.load("ece")(truth, draws)
    low, high = np.quantile(draws, [0.05, 0.95], axis=1)
    standard = posterior.module.transform
    u, true = standard(drawn), standard(torch.tensor(truth).float())
    score = torch.linalg.vector_norm(u - true[:, None], dim=-1).mean()
    apart = torch.cdist(u[:, ::2], u[:, 1::2]).mean()
    return {
        "max_ece": round(float(found.max), 4),
        "band": round(float(found.null_band[1]), 4),
        "width": round(float(((high - low) / spread).mean()), 4),
        "covered_90": round(float(((truth >= low) & (truth <= high)).mean()), 4),
        "energy_score": round(float(score - apart / 2), 5),
    }


if __name__ == "__main__":
    main()
