"""`make bench-estimators`: estimators side by side on benchmark tasks, several seeds, both definitions of C2ST.

paper   100 test sets of the prior predictive, 4000 draws each, the CMPE paper's classifier
sbibm   1000 draws, sbibm's classifier; its ten observations where the task has them, else the same test sets

MaxECE is that of the 100 sets and, steadier, of 1000 others (`--many`); beside each what a perfect sampler
stays below in 95 %, and beside the first what the exact posterior has on just these sets; and the share of
lots of 100 among the many that are beyond the band of 100, .05 for a perfect sampler. NRMSE is that of the
4000 draws, beside that of the exact posterior: a few draws thrown far out destroy it, and C2ST hardly sees them.

The parameters of the simulations are independent draws, as all peers have them; `--design sobol` takes points
of a scrambled Sobol sequence, as a run with that design does. Rows are weighted by the prior, as a run does
unless told otherwise; `--no-prior-weights` sees all alike.

A seed decides the simulations, the weights and the order of training. Every trained posterior adds one
line to `--out`; what is there already is not repeated, so that a run can be continued.

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
from benchmarks.fit import Plan, fit
from benchmarks.observations import SBIBM as TEN
from evaluation.c2st import PAPER, SBIBM, Protocol, c2st_batch
from pipeline.seed import points

Rows = tuple[np.ndarray, dict[str, np.ndarray]]  # theta and x
OUT = Path("runs/bench-estimators.jsonl")
SETS = 100
MANY = 1000  # test sets of the steadier MaxECE, unless told otherwise
TRAIN, TEST, REFERENCE, CALIBRATION = 1, 2, 3, 4  # streams of random numbers


@dataclass(frozen=True)
class Definition:
    """One definition of C2ST on one task."""

    protocol: Protocol
    draws: int
    reference: str | None = None


@dataclass(frozen=True)
class Task:
    """A simulator with its budgets and definitions."""

    name: str
    budgets: tuple[int, ...]
    definitions: Mapping[str, Definition]


STRICT, SHORT = Definition(PAPER, 4000), Definition(SBIBM, 1000)
TASKS = (
    Task(
        "two_moons",
        (1024, 8192),
        {"paper": Definition(PAPER, 4000, "untruncated"), "sbibm": SHORT},
    ),
    Task("gaussian_mixture", (1024, 8192), {"paper": STRICT, "sbibm": SHORT}),
    Task("inverse_kinematics", (1024, 8192), {"paper": STRICT, "sbibm": SHORT}),
    Task("slcp", (10_000,), {"sbibm": SHORT}),
)
SETTINGS = {"gaussian_mixture": {"summary": "deepset", "summary_arguments": {"outputs": 6}}}
GAINS = {"two_moons": 6.0, "inverse_kinematics": 4.0, "slcp": 2.0}


def _distilled(budget: int) -> Plan:
    members, dropout, steps = (4, 0.2, 40_000) if budget < 4096 else (3, 0.05, 90_000)
    given = {"members": members, "dropout": dropout, "teaching": 0.4}
    return Plan("cmpe_distilled", given, steps=steps, rate=3e-3)


def _shared(plan: Plan, denoising: int, steps: int) -> Plan:
    """Return the plan with so many of the steps for the denoisers."""
    return replace(plan, arguments={**plan.arguments, "teaching": denoising / steps}, steps=steps)


def _deeper_student(budget: int) -> Plan:
    plan = _distilled(budget)
    return replace(plan, arguments={**plan.arguments, "student_depth": 4, "points": 40})


def _longer_student(budget: int) -> Plan:
    """With many simulations it may take its time; see `docs/experiments/distillation.md`."""
    plan = _deeper_student(budget)
    if budget < 4096:
        return plan
    return replace(_shared(plan, 36_000, 130_000), validation=0.01)


def _kinematics(budget: int) -> Plan:
    """Of few simulations a deeper student makes less calibrated posteriors, and denoisers learn for long."""
    if budget < 4096:
        return _shared(_distilled(budget), 32_000, 56_000)
    return _deeper_student(budget)


def _one_denoiser(budget: int) -> Plan:
    """A summary network that all members share memorises sooner the more of them teach it."""
    dropout, steps, decay = (0.2, 18_000, 0.1) if budget < 4096 else (0.05, 37_500, 0.03)
    given = {"members": 1, "dropout": dropout, "teaching": 0.4}
    return Plan("cmpe_distilled", given, steps=steps, rate=3e-3, decay=decay)


def _cmpe(budget: int) -> Plan:
    return Plan("cmpe", steps=10_000 if budget < 4096 else 40_000, rate=3e-3)


def _fmpe(budget: int) -> Plan:
    if budget < 4096:
        given, steps = {"dropout": 0.2, "bounds": "reflect"}, 15_000
    else:
        given, steps = {"dropout": 0.05, "bounds": "reflect"}, 50_000
    return Plan("fmpe", given, steps=steps, rate=3e-3)


def _one_velocity(budget: int) -> Plan:
    """As many steps and as much decay as the denoiser's in `_one_denoiser`."""
    plan = _one_denoiser(budget)
    given = {"dropout": plan.arguments["dropout"], "bounds": "reflect", "gain": 3.0}
    steps = round(plan.arguments["teaching"] * plan.steps)
    return replace(plan, estimator="fmpe", arguments=given, steps=steps)


def _flow(name: str) -> Callable[[int], Plan]:
    return lambda budget: Plan(
        name,
        steps=40_000,
        rate=5e-4,
        batch=32 if name in ("acf", "nsf") else 64,
        patience=4,
    )


METHODS: dict[str, tuple[Callable[[int], Plan], tuple[int | None, ...]]] = {
    "cmpe_distilled": (_distilled, (2, 10)),
    "cmpe": (_cmpe, (2, 10)),
    "fmpe": (_fmpe, (100,)),
    "acf": (_flow("acf"), (None,)),
    "nsf": (_flow("nsf"), (None,)),
    "nsf_autoregressive": (_flow("nsf_autoregressive"), (None,)),
}
OWN = {  # plans of a task
    ("two_moons", "cmpe_distilled"): _longer_student,
    ("inverse_kinematics", "cmpe_distilled"): _kinematics,
    ("gaussian_mixture", "cmpe_distilled"): _one_denoiser,
    ("gaussian_mixture", "fmpe"): _one_velocity,
}


def plan_for(task: str, method: str, budget: int) -> Plan:
    """Return how a method is trained on a task."""
    plan = OWN.get((task, method), METHODS[method][0])(budget)
    given = {**plan.arguments, **SETTINGS.get(task, {})}
    if method == "cmpe_distilled" and task in GAINS:
        given["gain"] = GAINS[task]
    return replace(plan, arguments=given)


class Bench:
    """The test sets and references of one task; references are drawn once and kept in `folder`."""

    def __init__(self, task: Task, folder: Path, many: int = MANY) -> None:
        self.task, self.folder, self.count = task, folder, many
        self.simulator = simulators.load(task.name)
        self.theta, self.x = self._rows(SETS, TEST, 0)

    @cached_property
    def many(self) -> Rows:
        """The test sets of the steadier MaxECE."""
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
        if definition == "sbibm" and self.task.name in TEN:
            return {"x": TEN[self.task.name]}
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
        """MaxECE and error of the paper's references on the test sets: chance, which all posteriors share."""
        draws = self.reference("paper").astype(float)
        calibration = evaluation.load("ece")(self.theta, draws)
        return {
            "max_ece_exact": round(float(calibration.max), 4),
            "nrmse_exact": self._nrmse(draws),
        }

    @cached_property
    def prior_draws(self) -> np.ndarray:
        """Prior draws, whose spread is the unit of the error."""
        return self.simulator.prior.sample(_rng(REFERENCE, SETS), 100_000)

    def _nrmse(self, draws: np.ndarray) -> float:
        """Return the root mean squared error, which a few draws far out make large as nothing else here."""
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
            draws = posterior.sample(x, asked.draws, steps=passes, seed=0).numpy().astype(float)
            seconds = time.process_time() - began
            scores = c2st_batch(self.reference(name), draws, protocol=asked.protocol)
            result[f"c2st_{name}"] = round(float(scores.mean()), 5)
            result["seconds_per_1000"] = seconds / draws.shape[0] / draws.shape[1] * 1000
            if name == "paper":
                result["nrmse"] = self._nrmse(draws)
        ece = evaluation.load("ece")
        sets = {"ece": (self.theta, self.x, 1000), "ece_many": (*self.many, 500)}
        for name, (theta, x, count) in sets.items():
            draws = posterior.sample(x, count, steps=passes, seed=1).numpy().astype(float)
            calibration = ece(theta, draws)
            result[f"max_{name}"] = round(calibration.max, 4)
            result[f"{name}_band"] = round(float(calibration.null_band[1]), 3)
        # theta and draws are those of the many, which came last
        lots = [ece(theta[k : k + SETS], draws[k : k + SETS]) for k in range(0, self.count, SETS)]
        result["lots_beyond"] = float(np.mean([lot.max > lot.null_band[1] for lot in lots]))
        return result | (self.exact if "paper" in definitions else {})


def main() -> None:
    """Train and measure what was asked for, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=[task.name for task in TASKS])
    parser.add_argument("--budgets", nargs="+", type=int)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--passes", nargs="+", type=int, help="in place of the method's own")
    parser.add_argument("--design", default="random", choices=["random", "sobol"])
    parser.add_argument("--prior-weights", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--definitions", nargs="+", default=["paper", "sbibm"])
    parser.add_argument("--many", type=int, default=MANY, help="test sets of the steadier MaxECE")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.many < SETS or asked.many % SETS:
        parser.error(f"--many {asked.many}: must be {SETS} or a multiple of it")
    if not asked.table:
        _run(asked)
    print(table(_read(asked.out)))


def _run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {_key(line) for line in _read(asked.out)}
    for task in (task for task in TASKS if task.name in asked.tasks):
        bench = Bench(task, asked.out.parent / "references", asked.many)
        definitions = [name for name in task.definitions if name in asked.definitions]
        budgets = [b for b in task.budgets if asked.budgets is None or b in asked.budgets]
        for budget, method, seed in itertools.product(budgets, asked.methods, asked.seeds):
            plan = replace(plan_for(task.name, method, budget), prior_weights=asked.prior_weights)
            passes = tuple(asked.passes or METHODS[method][1])
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
        shown = [_mean([v[c] for v in found if c in v], c) for c in columns]
        text.append("| " + " | ".join([*map(str, key), str(len(found)), *shown]) + " |")
    return "\n".join(text)


def _mean(values: list[float], column: str) -> str:
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
