"""The energy score of a short training of one of sbibm's tasks, on 500 simulations that it did not see.

python -m experiments.defaults sir 1000 --set estimator.arguments.summary=tabular
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.estimators import settings_of
from benchmarks.fit import fit
from benchmarks.frontier import TASKS, Frontier, settings
from estimators.consistency import ConsistencyEstimator
from estimators.passes import energy_score

SHORT = ["train.steps=3000", "estimator.arguments.members=1"]
FRESH, DRAWS, STREAM = 500, 100, 9


def main() -> None:
    """Train and print the score with ten and two passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("budget", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], help="settings, KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Frontier(asked.task, Path("runs/references"), 1000, None)
    theta, x = bench.simulations(asked.budget, asked.seed)
    plan = settings_of(settings(asked.task, [*SHORT, *asked.set]))
    posterior, seconds = fit(plan, bench.simulator.prior, theta, x, asked.seed)
    assert isinstance(posterior.module, ConsistencyEstimator)
    truth, outputs = bench._rows(FRESH, STREAM, 0)
    for passes in (10, 2):
        times = posterior.module.times(passes)
        score = energy_score(posterior, truth, outputs, times, DRAWS, 0)
        print(f"{asked.task} {asked.budget}, {passes} passes: {score:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
