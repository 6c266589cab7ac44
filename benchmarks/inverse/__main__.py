"""Inverse solvers against exact posteriors, and the claims of the consistency paper.

    python -m benchmarks.inverse                              every method on the exact problems, small plan
    python -m benchmarks.inverse --cases mixture_2            some of them
    python -m benchmarks.inverse --prior RUN --mechanism      what operators see of mean and sample
    python -m benchmarks.inverse --prior RUN --tasks classifier segmenter embedding
    python -m benchmarks.inverse --sensitivity --picture downsample
    python -m benchmarks.inverse --full                       more problems, draws and passes: hours

RUN is a run of `configs/fashion_prior_small.yaml` or `fashion_prior.yaml`. Results are kept in `runs/inverse`; a
repeat continues. Prints the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.inverse import exact, mechanism, neural, picture, sensitivity, tables
from benchmarks.inverse.methods import METHODS
from benchmarks.inverse.networks import TASKS
from benchmarks.inverse.problems import OPERATORS
from benchmarks.inverse.record import MeasuredLog
from estimators.inverse import EstimatorPrior
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory

FOLDER = Path("runs/inverse")


def main() -> None:
    """Measure what is asked for, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the plan of hours")
    parser.add_argument("--cases", nargs="*", choices=list(exact.SMALL), help="exact problems")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sensitivity", action="store_true", help="by step size, as a picture")
    parser.add_argument("--picture", choices=list(OPERATORS), help="draws for a measured image")
    parser.add_argument("--prior", type=Path, help="run directory of a trained prior")
    parser.add_argument("--mechanism", action="store_true", help="mean and sample by noise level")
    parser.add_argument("--tasks", nargs="*", default=[], choices=[*TASKS, *neural.LINEAR])
    parser.add_argument("--images", type=int, help="test images of neural operators")
    parser.add_argument("--tables", action="store_true", help="only print what is measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plans, name = (exact.FULL, "full") if asked.full else (exact.SMALL, "small")
    record = MeasuredLog(FOLDER / f"{name}.jsonl")
    if asked.cases is not None or not (asked.prior or asked.picture or asked.sensitivity):
        for case in asked.cases or plans:
            if not asked.tables:
                exact.run(case, plans[case], record, tuple(asked.methods))
            for passes in plans[case].passes:
                print(f"\n{case}, {passes} passes\n\n{tables.exact(case, passes, record)}")
    if asked.sensitivity:
        print(sensitivity.picture(record, FOLDER))
    if asked.picture:
        print(picture.picture(asked.picture, record, FOLDER))
    if asked.prior:
        _trained(asked, record)


def _trained(asked: argparse.Namespace, record: MeasuredLog) -> None:
    """Measure what needs a trained prior."""
    run, images = RunDirectory(asked.prior), asked.images or (500 if asked.full else 100)
    key = latest_training(run)
    prior = EstimatorPrior(Results(run, key).load())
    folder = FOLDER / "networks"
    record = MeasuredLog(FOLDER / f"{record.path.stem}-{key}.jsonl")
    if asked.mechanism:
        for sigma in mechanism.SIGMAS:
            record.get(
                f"mechanism {sigma}", lambda s=sigma: mechanism.measure(prior, s, images, folder)
            )
        print(f"\n{tables.mechanism(record)}")
    for task in asked.tasks:
        plan = neural.NeuralPlan(images=images)
        if not asked.tables:
            neural.run(task, prior, plan, record, folder, list(neural.VARIANTS))
        print(f"\n{task}\n\n{tables.neural(task, plan, record)}")


if __name__ == "__main__":
    main()
