"""C2ST after refinement for one observation, beside an amortised posterior of as many simulations.

    python -m benchmarks.refine --tasks two_moons --total 1000 --rounds 3 --observations 3

A third of the simulations (with `--rounds 3`) is drawn from the prior, the others in rounds of equal size. The
observations are those of sbibm where the task has them, else test simulations. C2ST is sbibm's, of 1000 draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.observations import SBIBM
from evaluation.c2st import c2st
from pipeline.answer.stage import Question
from pipeline.refine.answer import RefinedQuestion
from pipeline.refine.stage import Refinement, refine
from pipeline.stop import Stop
from sbiflow import Run

DRAWS = 1000
TRAIN = {"learning_rate": 1e-3, "validation": 0.1, "validate_every": 30, "patience": 10}


def observations(task: str, model: Any, count: int) -> list[dict[str, np.ndarray]]:
    """Return sbibm's first observations, or simulations of other seeds."""
    if task in SBIBM:
        return [{"x": row} for row in SBIBM[task][:count]]
    rng = np.random.default_rng(7)
    theta = model.prior.sample(rng, count)
    return [
        model(**dict(zip(model.prior.names, row, strict=True)), seed=k)
        for k, row in enumerate(theta)
    ]


def run_of(folder: Path, task: str, budget: int, asked: argparse.Namespace) -> Run:
    """Return a trained run."""
    given = json.loads(asked.estimator) if asked.estimator.startswith("{") else asked.estimator
    run = Run(
        folder / f"{task}-{budget}-{asked.seed}", simulator=task, budget=budget, test=0, seed=asked.seed,
        estimator=given, train={"steps": asked.steps, **TRAIN},
    )  # fmt: skip
    run.simulate()
    run.train()
    return run


def measure(task: str, asked: argparse.Namespace, folder: Path) -> None:
    """Print C2ST of both for each observation, and the means."""
    found = []
    each = asked.total // asked.rounds
    first = run_of(folder, task, asked.total - (asked.rounds - 1) * each, asked)
    amortised = run_of(folder, task, asked.total, asked)
    for k, x in enumerate(observations(task, first.simulator, asked.observations)):
        reference = first.simulator.reference(x, DRAWS, np.random.default_rng(k))
        question = Question(first._directory, draws=DRAWS)
        new = (asked.rounds - 1) * each
        rounds = refine(Refinement(question, new, asked.rounds - 1, asked.level), x, Stop())
        posterior = RefinedQuestion(first._directory, draws=DRAWS, rounds=rounds).posterior
        batch = {name: np.asarray(values)[None] for name, values in x.items()}
        draws = {
            "refined": posterior.sample(batch, DRAWS, seed=0).cpu().numpy()[0],
            "amortised": amortised.posterior().sample(x, DRAWS, seed=0).numpy(),
        }
        found.append({name: c2st(reference, values) for name, values in draws.items()})
        shares = [round(one.share, 4) for one in rounds]
        print(task, k, json.dumps(found[-1]), "region", shares, flush=True)
    for name in found[0]:
        values = np.array([one[name] for one in found])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        print(f"{task} {asked.total} {name}: {values.mean():.3f} +- {error:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["two_moons"])
    parser.add_argument("--total", type=int, default=1000, help="simulations in all")
    parser.add_argument("--rounds", type=int, default=3, help="the first one from the prior")
    parser.add_argument("--observations", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000, help="of each training, at most")
    parser.add_argument("--level", type=float, default=1e-3, help="see `sbiflow refine`")
    parser.add_argument(
        "--estimator", default="nsf_autoregressive", help="name, or JSON with arguments"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the runs; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for task in asked.tasks:
            measure(task, asked, asked.out or Path(temporary))


if __name__ == "__main__":
    main()
