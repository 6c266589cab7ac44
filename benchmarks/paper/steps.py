"""C2ST against the number of sampling steps, with processor seconds of 1000 draws, of trainings that are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import simulators
from benchmarks.paper.records import Records
from evaluation.c2st import PAPER, c2st_batch
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.progress import log
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.study.case import CASES

METHODS = ("CMPE", "FMPE")
BUDGET = 1024  # of the training that is taken, or the nearest to it that is there
STEPS = (2, 5, 10, 20, 30, 50, 100)
SIZES = {"full": (100, 4000), "short": (10, 4000), "small": (3, 1000)}  # test sets, draws
STREAM = 77  # of the test sets


def measure(folder: Path, records: Records, plan: str) -> None:
    """Measure what is not recorded, for one training of each method.

    Arguments:
        folder: of a study of the paper.
        records: of all experiments.
        plan: decides on the test sets and the draws.
    """
    for method in METHODS:
        found = list(_finished(folder, method))
        if not found:
            continue
        results, budget = min(found, key=lambda one: abs(np.log(one[1] / BUDGET)))
        seen = {"experiment": folder.name, "plan": plan, "method": method, "training": results.key}
        if any(seen.items() <= row.items() for row in records.rows):
            continue
        rows = [{**seen, "budget": budget, **row} for row in _measured(results, plan)]
        records.add(rows)
        log(f"steps: {folder.name}, {method} at {budget}: {len(rows)} numbers of sampling steps")


def _finished(folder: Path, method: str) -> Iterator[tuple[Results, int]]:
    """Yield the finished trainings of a method with their budgets, those of the smallest seed first."""
    for path in sorted(folder.glob(f"{CASES}/{method},*")):
        run = RunDirectory(path)
        try:
            results = Results(run, latest_training(run))
            done = results.done()
        except PipelineError:
            continue
        if done is not None:
            yield results, int(path.name.partition("budget=")[2].partition(",")[0])


def _measured(results: Results, plan: str) -> Iterator[dict[str, Any]]:
    """Yield C2ST and seconds for each number of sampling steps."""
    config: Config = configuration.load(results.run)
    simulator, (tests, draws) = simulators.load(config.simulator.name), SIZES[plan]
    rng = np.random.default_rng((config.seed, STREAM))
    x = simulator.simulate_block(simulator.prior.sample(rng, tests), rng)
    name = config.evaluate.reference
    references = np.stack(
        [
            simulator.reference({k: v[i] for k, v in x.items()}, draws, rng, name)
            for i in range(tests)
        ]
    )
    posterior = results.load()
    for steps in STEPS:
        began = time.process_time()
        found = posterior.sample(x, draws, sampling_steps=steps, seed=steps).double().numpy()
        seconds = time.process_time() - began
        values = c2st_batch(references, found, definition=PAPER)
        yield {
            "sampling_steps": steps,
            "tests": tests,
            "c2st": round(float(values.mean()), 4),
            "c2st_sem": round(float(values.std(ddof=1) / np.sqrt(tests)), 4),
            "seconds_per_1000": round(1000 * seconds / (tests * draws), 5),
        }
