"""`python -m experiments.few_step`: few-step methods on the same simulations, observations and networks.

C2ST by sbibm's definition (1000 draws) on two moons' ten observations of sbibm and on observations of
the prior predictive with the exact, truncated reference; on other tasks on the latter alone. Every
trained posterior adds one line to `--out`; what is there already is not repeated. Teachers are trained
once for a task, budget and seed, and kept; their seconds are counted for each of their students.

    python -m experiments.few_step --methods mean_flow --arguments '{"p_mean": -2}' --rate 1e-3
    python -m experiments.few_step --table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

import estimators
from benchmarks.estimators import TASKS, Benchmark
from benchmarks.fit import TrainingSettings, fit
from evaluation.c2st import SBIBM, c2st_batch
from experiments.few_step import METHODS, TEACHERS, Method

OUT = Path("runs/few_step.jsonl")
DRAWS = 1000


class Simulated:
    """The training rows of one task, budget and seed, with its observations and references.

    Arguments:
        bench: test sets and references of a task.
        budget: simulations for training. seed: of simulations, weights and order.
        observations: how many of the prior predictive test sets.
    """

    def __init__(self, bench: Benchmark, budget: int, seed: int, observations: int) -> None:
        self.bench, self.budget, self.seed = bench, budget, seed
        self.theta, self.x = bench.simulations(budget, seed)
        some = {name: values[:observations] for name, values in bench.x.items()}
        self.sets = {"pp": (some, self._references(some, observations))}
        if bench.observed("sbibm") is not bench.x:
            self.sets["ten"] = bench.observed("sbibm"), bench.reference("sbibm")

    def _references(self, x: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Return draws of the default reference posterior, (B, n, D); drawn once and kept."""
        path = self.bench.folder / f"few-step-{self.bench.task.name}-{count}.npy"
        if not path.exists():
            rows = [{name: values[i] for name, values in x.items()} for i in range(count)]
            draws = [
                self.bench.simulator.reference(row, DRAWS, np.random.default_rng(i))
                for i, row in enumerate(rows)
            ]
            self.bench.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, np.stack(draws))
        references: np.ndarray = np.load(path)
        return references

    def fit(self, plan: TrainingSettings) -> tuple[estimators.Posterior, float]:
        """Return the trained posterior and its seconds."""
        return fit(plan, self.bench.simulator.prior, self.theta, self.x, self.seed)

    def teacher(self, plan: TrainingSettings, folder: Path) -> tuple[str, float]:
        """Return the path of a trained teacher's artefact and the seconds its training took."""
        given = [self.bench.task.name, self.budget, self.seed, asdict(plan)]
        digest = sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]
        path = folder / f"teacher-{plan.estimator}-{digest}"
        if not path.exists():
            posterior, seconds = self.fit(plan)
            estimators.save(path, posterior.module, {"seconds": seconds})
        return str(path), estimators.load(path).provenance["seconds"]

    def measure(self, posterior: estimators.Posterior, passes: int) -> dict[str, float]:
        """Return the mean C2ST over each set of observations."""
        result = {}
        for name, (x, reference) in self.sets.items():
            draws = posterior.sample(x, DRAWS, sampling_steps=passes, seed=0).numpy().astype(float)
            score = c2st_batch(reference, draws, definition=SBIBM).mean()
            result[name] = round(float(score), 4)
        return result


def main() -> None:
    """Train and measure what was asked for, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="two_moons", choices=[task.name for task in TASKS])
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON, over the default")
    parser.add_argument("--teacher", choices=list(TEACHERS), help="in place of the default one")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--passes", nargs="+", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--observations", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--takes", nargs="+", help="arguments that are given the teacher")
    asked = parser.parse_args()
    if not asked.table:
        _run(asked)
    print(table(_read(asked.out)))


def _run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    folder = asked.out.parent / "few_step"
    bench = Benchmark(next(task for task in TASKS if task.name == asked.task), folder)
    done = {_key(line) for line in _read(asked.out)}
    for seed in asked.seeds:
        simulated = Simulated(bench, asked.budget, seed, asked.observations)
        for name in asked.methods:
            method = _with(METHODS[name], asked)
            line: dict[str, Any] = {"method": name, "task": asked.task, "budget": asked.budget}
            line |= {"seed": seed, "observations": asked.observations, **asdict(method)}
            if _key(line) in done:
                continue
            plan, taught = method.plan, 0.0
            if method.teacher is not None:
                path, taught = simulated.teacher(TEACHERS[method.teacher](asked.budget), folder)
                given = dict.fromkeys(method.takes, path)
                plan = replace(plan, arguments={**plan.arguments, **given})
            posterior, seconds = simulated.fit(plan)
            line["seconds"] = round(seconds + taught, 1)
            line["c2st"] = {str(k): simulated.measure(posterior, k) for k in method.passes}
            print(json.dumps(line), flush=True)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _with(method: Method, asked: argparse.Namespace) -> Method:
    """Return the method with what the command line says otherwise."""
    plan = replace(method.plan, arguments={**method.plan.arguments, **asked.arguments})
    plan = replace(plan, steps=asked.steps or plan.steps, rate=asked.rate or plan.rate)
    passes = tuple(asked.passes or method.passes)
    teacher, takes = asked.teacher or method.teacher, tuple(asked.takes or method.takes)
    return replace(method, plan=plan, passes=passes, teacher=teacher, takes=takes)


def table(lines: list[dict[str, Any]]) -> str:
    """Return a table with one row for each trained posterior and number of passes."""
    head = ["task", "budget", "method", "teacher", "settings", "steps", "rate", "seed"]
    head += ["passes", "pp", "ten", "CPU s"]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        plan = line["plan"]
        settings = ", ".join(f"{key} {value}" for key, value in plan["arguments"].items())
        first = [line["task"], line["budget"], line["method"], line["teacher"] or "", settings]
        first += [plan["steps"], plan["rate"], line["seed"]]
        for passes, scores in line["c2st"].items():
            cells = [*first, passes, scores["pp"], scores.get("ten", ""), line["seconds"]]
            text.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(text)


def _key(line: Mapping[str, Any]) -> str:
    names = "method", "task", "budget", "seed", "observations", "plan", "teacher", "passes"
    return json.dumps([line[name] for name in names], sort_keys=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
