"""`make bench-estimators`: estimators side by side on benchmark tasks, several seeds, both definitions of C2ST.

paper   100 test sets of the prior predictive, 4000 draws each, the CMPE paper's classifier
sbibm   1000 draws, sbibm's classifier; its ten observations where the task has them, else the same test sets

The settings of a task and budget are `configs/TASK_BUDGET.yaml`, which `sbiflow run` takes too.

Columns of the table:

max_ece         MaxECE on the 100 test sets; `ece_band`: 95 % quantile of a perfect sampler;
                `max_ece_exact`: MaxECE of the exact posterior on the same test sets
max_ece_many    MaxECE on 1000 other test sets (`--many`), which has a smaller sampling error
lots_beyond     share of batches of 100 of these that exceed the band of 100; .05 for a perfect sampler
nrmse           of the 4000 draws, beside that of the exact posterior; it is sensitive to outliers, C2ST is not

Training parameters are independent draws, as for all peers; `--design sobol` takes points of a scrambled
Sobol sequence. Rows are weighted by the prior; with `--no-prior-weights` all have equal weight.

A seed sets the simulations, the initial weights and the order of training. Every trained posterior adds one
line to `--out`. A repeated command skips what is there, so an interrupted benchmark can be continued.

    python -m benchmarks.estimators --tasks two_moons --budgets 1024 --methods cmpe_distilled --seeds 0 1 2
    python -m benchmarks.estimators --table
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import estimators
import evaluation
import simulators
from benchmarks.fit import TrainingSettings, fit
from benchmarks.observations import SBIBM as SBIBM_OBSERVATIONS
from estimators.registry import resolve
from evaluation.c2st import PAPER, SBIBM, C2STDefinition, c2st_batch
from pipeline.config import Config, build, override, read
from pipeline.simulate.seed import points

Rows = tuple[np.ndarray, dict[str, np.ndarray]]  # theta and x
OUT = Path("runs/bench-estimators.jsonl")
CONFIGS = Path(__file__).parents[1] / "configs"
SETS = 100
MANY = 1000  # default number of test sets of `max_ece_many`
TRAIN, TEST, REFERENCE, CALIBRATION = 1, 2, 3, 4  # streams of random numbers


@dataclass(frozen=True)
class Definition:
    """One definition of C2ST on one task."""

    definition: C2STDefinition
    draws: int
    reference: str | None = None


@dataclass(frozen=True)
class Task:
    """A simulator with its budgets and definitions."""

    name: str
    budgets: tuple[int, ...]
    definitions: Mapping[str, Definition]


def tuned_budgets(task: str) -> tuple[int, ...]:
    """Return the budgets that have a configuration `configs/TASK_BUDGET.yaml`, ascending."""
    files = CONFIGS.glob(f"{task}_[0-9]*.yaml")
    return tuple(sorted(int(file.stem.removeprefix(f"{task}_")) for file in files))


STRICT, SHORT = Definition(PAPER, 4000), Definition(SBIBM, 1000)
TASKS = tuple(
    Task(name, tuned_budgets(name), definitions)
    for name, definitions in {
        "two_moons": {"paper": Definition(PAPER, 4000, "untruncated"), "sbibm": SHORT},
        "gaussian_mixture": {"paper": STRICT, "sbibm": SHORT},
        "inverse_kinematics": {"paper": STRICT, "sbibm": SHORT},
        "slcp": {"sbibm": SHORT},
    }.items()
)


def _flow(batch: int) -> Callable[[int], dict[str, Any]]:
    return lambda budget: {"steps": 40_000, "rate": 5e-4, "batch": batch, "patience": 4}


TRAININGS: dict[str, Callable[[int], dict[str, Any]]] = {  # of a method on a budget
    "cmpe": lambda budget: {"steps": 10_000 if budget < 4096 else 40_000, "rate": 3e-3},
    "fmpe": lambda budget: {"steps": 15_000 if budget < 4096 else 50_000, "rate": 3e-3},
    "acf": _flow(32),
    "nsf": _flow(32),
    "nsf_autoregressive": _flow(64),
}
METHODS: dict[str, tuple[int | None, ...]] = {  # network passes of a draw that are measured
    "cmpe_distilled": (2, 10),
    "cmpe": (2, 10),
    "fmpe": (100,),
    "acf": (None,),
    "nsf": (None,),
    "nsf_autoregressive": (None,),
}


def plan_for(task: str, method: str, budget: int) -> TrainingSettings:
    """Return how a method is trained on a task.

    `configs/TASK_BUDGET.yaml` has the arguments of every method and the training of its own estimator;
    the training of the others is in `TRAININGS`.
    """
    tuned = read(CONFIGS / f"{task}_{budget}.yaml")
    own, train = build(tuned).estimator, build(tuned).train
    given = build(override(tuned, [f"estimator.name={method}"])).estimator.settings
    if method == own.name:
        return settings_of(build(tuned))
    training = TRAININGS[method](budget)
    if (task, method) == ("gaussian_mixture", "fmpe"):  # as the denoiser of the tuned estimator
        training["steps"] = round(own.settings["teacher_fraction"] * train.steps)
        training["decay"] = train.weight_decay
    return TrainingSettings(method, given, **training)


def settings_of(config: Config) -> TrainingSettings:
    """Return the estimator of a configuration and how it is trained."""
    train = config.train
    if train.steps is None:
        raise ValueError(f"{config.name}: the benchmark needs train.steps")
    return TrainingSettings(
        config.estimator.name,
        config.estimator.settings,
        steps=train.steps,
        batch=train.batch_size,
        rate=train.learning_rate or resolve(config.estimator.name).learning_rate,
        decay=train.weight_decay,
        warmup=train.warmup,
        clip=train.clip,
        ema=train.ema,
        validation=train.validation,
        patience=train.patience,
    )


class Benchmark:
    """The test sets and references of one task; references are drawn once and kept in `folder`."""

    def __init__(self, task: Task, folder: Path, many: int = MANY) -> None:
        self.task, self.folder, self.count = task, folder, many
        self.simulator = simulators.load(task.name)
        self.theta, self.x = self._rows(SETS, TEST, 0)

    @cached_property
    def many(self) -> Rows:
        """The test sets of `max_ece_many`."""
        return self._rows(self.count, CALIBRATION, 0)

    def simulations(self, budget: int, seed: int, design: str = "random") -> Rows:
        """Return the training rows of a seed."""
        return self._rows(budget, TRAIN, seed, design)

    def _rows(self, count: int, stream: int, number: int, design: str = "random") -> Rows:
        rng, prior = _rng(stream, number), self.simulator.prior
        if design == "sobol":
            theta = prior.quantile(points(number, stream, len(prior.names), 0, count))
        else:
            theta = prior.sample(rng, count)
        if self.simulator.batched:
            return theta, self.simulator.simulate_block(theta, rng)
        rows = [self.simulator.simulate(row, rng) for row in theta]
        return theta, {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def observed(self, definition: str) -> dict[str, np.ndarray]:
        """Return what a definition tests on."""
        if definition == "sbibm" and self.task.name in SBIBM_OBSERVATIONS:
            return {"x": SBIBM_OBSERVATIONS[self.task.name]}
        return self.x

    def reference(self, definition: str) -> np.ndarray:
        """Return reference draws (B, n, D)."""
        asked, x = self.task.definitions[definition], self.observed(definition)
        digest = hashlib.sha256(b"".join(v.tobytes() for v in x.values())).hexdigest()[:8]
        path = self.folder / f"reference-{self.task.name}-{definition}-{asked.draws}-{digest}.npy"
        if not path.exists():
            count = len(next(iter(x.values())))
            draws = [
                self.simulator.reference(
                    {name: values[i] for name, values in x.items()},
                    asked.draws,
                    _rng(REFERENCE, i),
                    asked.reference,
                )
                for i in range(count)
            ]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, np.stack(draws))
        reference: np.ndarray = np.load(path)
        return reference

    @cached_property
    def exact(self) -> dict[str, float]:
        """MaxECE and NRMSE of the paper's reference draws: the sampling error of the test sets."""
        draws = self.reference("paper").astype(float)
        calibration = evaluation.load("ece")(self.theta, draws)
        return {
            "max_ece_exact": round(float(calibration.max), 4),
            "nrmse_exact": self._nrmse(draws),
        }

    @cached_property
    def prior_draws(self) -> np.ndarray:
        """Prior draws; their standard deviation is the unit of NRMSE."""
        return self.simulator.prior.sample(_rng(REFERENCE, SETS), 100_000)

    def _nrmse(self, draws: np.ndarray) -> float:
        """Return the mean NRMSE over the parameters."""
        return round(float(evaluation.load("nrmse")(self.theta, draws, self.prior_draws).mean), 4)

    def measure(
        self, posterior: estimators.Posterior, passes: int | None, definitions: list[str]
    ) -> dict[str, Any]:
        """Return C2ST by every definition, calibration and seconds."""
        result: dict[str, Any] = {}
        for name in definitions:
            asked = self.task.definitions[name]
            x = self.observed(name)
            began = time.process_time()
            draws = (
                posterior.sample(x, asked.draws, sampling_steps=passes, seed=0)
                .numpy()
                .astype(float)
            )
            seconds = time.process_time() - began
            scores = c2st_batch(self.reference(name), draws, definition=asked.definition)
            result[f"c2st_{name}"] = round(float(scores.mean()), 5)
            result["seconds_per_1000"] = seconds / draws.shape[0] / draws.shape[1] * 1000
            if name == "paper":
                result["nrmse"] = self._nrmse(draws)
        ece = evaluation.load("ece")
        sets = {"ece": (self.theta, self.x, 1000), "ece_many": (*self.many, 500)}
        for name, (theta, x, count) in sets.items():
            draws = posterior.sample(x, count, sampling_steps=passes, seed=1).numpy().astype(float)
            calibration = ece(theta, draws)
            result[f"max_{name}"] = round(calibration.max, 4)
            result[f"{name}_band"] = round(float(calibration.null_band[1]), 3)
        # theta and draws are those of the many, which came last
        batches = [
            ece(theta[k : k + SETS], draws[k : k + SETS]) for k in range(0, self.count, SETS)
        ]
        result["lots_beyond"] = float(
            np.mean([batch.max > batch.null_band[1] for batch in batches])
        )
        return result | (self.exact if "paper" in definitions else {})


def main() -> None:
    """Train and measure what was asked for, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", default=names, choices=names)
    parser.add_argument("--budgets", nargs="+", type=int, help="of those with a configuration")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--passes", nargs="+", type=int, help="in place of the method's own")
    parser.add_argument("--design", default="random", choices=["random", "sobol"])
    parser.add_argument("--prior-weights", action=argparse.BooleanOptionalAction, default=True)
    both = ["paper", "sbibm"]
    parser.add_argument("--definitions", nargs="+", default=both, choices=both)
    parser.add_argument("--many", type=int, default=MANY, help="test sets of max_ece_many")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.many < SETS or asked.many % SETS:
        parser.error(f"--many {asked.many}: must be {SETS} or a multiple of it")
    if error := _without_settings(asked.tasks, asked.budgets or []):
        parser.error(error)
    if not asked.table:
        _run(asked)
    print(table(_read(asked.out)))


def _without_settings(tasks: list[str], budgets: list[int]) -> str:
    """Return what is wrong with budgets that none of the tasks has settings for, or nothing."""
    valid = {task.name: task.budgets for task in TASKS if task.name in tasks}
    wrong = [b for b in budgets if not any(b in known for known in valid.values())]
    shown = "; ".join(f"{task} {', '.join(map(str, known))}" for task, known in valid.items())
    return (
        f"--budgets {' '.join(map(str, wrong))}: no settings are tuned for it; valid: {shown}. "
        f"Another budget needs a file configs/TASK_BUDGET.yaml"
        if wrong
        else ""
    )


def _run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {_key(line) for line in _read(asked.out)}
    for task in (task for task in TASKS if task.name in asked.tasks):
        bench = Benchmark(task, asked.out.parent / "references", asked.many)
        definitions = [name for name in task.definitions if name in asked.definitions]
        budgets = [b for b in task.budgets if asked.budgets is None or b in asked.budgets]
        for budget, method, seed in itertools.product(budgets, asked.methods, asked.seeds):
            plan = replace(plan_for(task.name, method, budget), prior_weights=asked.prior_weights)
            passes = tuple(asked.passes or METHODS[method])
            line = {"task": task.name, "budget": budget, "method": method, "seed": seed}
            line |= {"plan": asdict(plan), "definitions": definitions, "design": asked.design}
            line["many"] = asked.many
            line["passes"] = dict.fromkeys(map(str, passes))
            if _key(line) in done:
                continue
            theta, x = bench.simulations(budget, seed, asked.design)
            posterior, seconds = fit(plan, bench.simulator.prior, theta, x, seed)
            line["training_seconds"] = round(seconds, 1)
            line["passes"] = {str(k): bench.measure(posterior, k, definitions) for k in passes}
            print(json.dumps({k: v for k, v in line.items() if k != "plan"}), flush=True)
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def table(lines: list[dict[str, Any]]) -> str:
    """Return a table of means and standard errors over the seeds."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    names = "task", "budget", "design", "method", "many"
    for line in lines:
        for passes, values in line["passes"].items():
            weights = "prior" if line["plan"].get("prior_weights") else "none"
            key = *(line[name] for name in names), weights, passes
            cells[key].append({**values, "training_seconds": line["training_seconds"]})
    columns = (
        *("c2st_paper", "c2st_sbibm", "max_ece", "max_ece_exact", "ece_band"),
        *("max_ece_many", "ece_many_band", "lots_beyond", "nrmse", "nrmse_exact"),
        *("seconds_per_1000", "training_seconds"),
    )
    head = [*names, "weights", "passes", "seeds", *columns]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, found in cells.items():
        shown = [mean([v[c] for v in found if c in v], c) for c in columns]
        text.append("| " + " | ".join([*map(str, key), str(len(found)), *shown]) + " |")
    return "\n".join(text)


def mean(values: list[float], column: str) -> str:
    """Return the mean of a column over the seeds, with its standard error, as text."""
    if not values:
        return ""
    digits = {"seconds_per_1000": 4, "training_seconds": 0}.get(column, 3)
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    spread = f" ± {error:.{digits}f}" if error and digits == 3 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _key(line: Mapping[str, Any]) -> str:
    names = "task", "budget", "method", "seed", "plan", "definitions", "design", "many"
    return json.dumps([[line[name] for name in names], list(line["passes"])], sort_keys=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{"design": "random", "many": MANY, **json.loads(line)} for line in lines]


def _rng(stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(2312_05440, spawn_key=(stream, number)))


if __name__ == "__main__":
    main()
