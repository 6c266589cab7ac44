"""`python -m benchmarks.joint`: what one joint network answers, and how well.

Of each training of `joint_distilled` or `joint` on a task of `benchmarks.frontier`:

c2st              by sbibm's and the CMPE paper's classifier, by network passes; `denoiser` is the teacher
absent            a random 30 % of the outputs absent, against the exact posterior: root mean square error of
                  the posterior means in prior standard deviations, and the mean ratio of the posterior standard
                  deviations to the exact ones; on gaussian_linear alone, whose exact posterior is known
log_likelihood    mean over held-out simulations of log p(x | theta) by the network minus the exact one

Every training adds one line to `--out`. The settings are those of `configs/frontier/TASK.yaml` with `--set`.

    python -m benchmarks.joint --task gaussian_linear --budget 1000 --seed 0 \\
        --questions absent log_likelihood --set train.steps=2000 train.batch_size=128
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.estimators import settings_of
from benchmarks.fit import fit
from benchmarks.frontier import TASKS, Frontier, settings
from estimators.joint.posterior import JointPosterior

OUT = Path("runs/joint.jsonl")
DENOISER_PASSES = 30
ABSENT = 0.3
SETS = 100  # of the log-likelihood
FEW, DRAWS = 20, 500  # test sets and draws of absent outputs
QUESTIONS = ("c2st", "absent", "log_likelihood")
NAMES = ("joint", "joint_distilled")


def main() -> None:
    """Train on one task and budget, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="gaussian_linear")
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", nargs="+", type=int, default=[2, 10])
    parser.add_argument("--draws", type=int, default=1000, help="of one test set")
    parser.add_argument("--estimator", choices=NAMES, default="joint_distilled")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    parser.add_argument("--set", nargs="+", default=[], help="settings, KEY=VALUE")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if "absent" in asked.questions and asked.task != "gaussian_linear":
        parser.error("--questions absent: the exact posterior is known for --task gaussian_linear")
    torch.set_num_threads(1)
    bench = Frontier(asked.task, asked.out.parent / "references", asked.draws, None)
    plan = settings_of(settings(asked.task, [f"estimator.name={asked.estimator}", *asked.set]))
    theta, x = bench.simulations(asked.budget, asked.seed)
    posterior, seconds = fit(plan, bench.simulator.prior, theta, x, asked.seed)
    assert isinstance(posterior, JointPosterior)
    line = {key: value for key, value in vars(asked).items() if key != "out"}
    line |= {"training_seconds": round(seconds, 1)}
    line |= {
        question: ASK[question](bench, posterior, asked.passes) for question in asked.questions
    }
    print(json.dumps(line))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def c2st(bench: Frontier, posterior: JointPosterior, passes: list[int]) -> dict[str, Any]:
    """Return C2ST of the posterior's draws, and of the denoiser's."""
    return {
        name: bench.c2st(one, steps) for name, (one, steps) in samplers(posterior, passes).items()
    }


def samplers(posterior: JointPosterior, passes: list[int]) -> dict[str, tuple[JointPosterior, int]]:
    """Return the posterior with each number of passes, and that of the denoiser behind it."""
    denoiser, found = posterior.module.denoiser, {}
    if denoiser is not posterior.module:
        found = {str(k): (posterior, k) for k in passes}
    return {**found, f"denoiser, {DENOISER_PASSES}": (denoiser.posterior(), DENOISER_PASSES)}


def absent(bench: Frontier, posterior: JointPosterior, passes: list[int]) -> dict[str, Any]:
    """Return `absent_outputs` of each way to draw."""
    ways = samplers(posterior, passes).items()
    return {name: absent_outputs(bench, one, steps) for name, (one, steps) in ways}


def absent_outputs(bench: Frontier, posterior: JointPosterior, passes: int) -> dict[str, float]:
    """Compare with theta_j | x ~ N(x_j / 2, s^2 / 2), and N(0, s^2) where x_j is absent."""
    rng = np.random.default_rng(0)
    x = bench.x["x"][:FEW].copy()
    x[rng.random(x.shape) < ABSENT] = np.nan
    std = math.sqrt(0.1)
    mean, spread = np.nan_to_num(x) / 2, np.where(np.isnan(x), std, std / math.sqrt(2))
    draws = posterior.sample({"x": x}, DRAWS, sampling_steps=passes, seed=0).double().numpy()
    error = np.sqrt(np.square(draws.mean(1) - mean).mean()) / std
    return {"rmse_of_means": float(error), "std_ratio": float((draws.std(1) / spread).mean())}


def log_likelihood(bench: Frontier, posterior: JointPosterior, passes: list[int]) -> dict[str, Any]:
    """Return the mean log-likelihood of held-out simulations, the exact one, and the error of their difference.

    It is that of the denoiser.
    """
    theta, x = bench.theta[:SETS], {name: values[:SETS] for name, values in bench.x.items()}
    ours = posterior.log_likelihood(theta, x).double().numpy()
    exact = np.array(
        [
            bench.simulator.log_likelihood(theta[i : i + 1], {k: v[i] for k, v in x.items()})[0]
            for i in range(len(theta))
        ]
    )
    gap = ours - exact
    return {
        "network": float(ours.mean()),
        "exact": float(exact.mean()),
        "gap_error": float(gap.std(ddof=1) / math.sqrt(len(gap))),
    }


ASK = {"c2st": c2st, "absent": absent, "log_likelihood": log_likelihood}

if __name__ == "__main__":
    main()
