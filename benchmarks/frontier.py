"""`make frontier`: the ten tasks of sbibm at its budgets, both classifiers of C2ST, several seeds.

The settings of a task are `configs/frontier/TASK.yaml`; `--set` changes them for all tasks, as in
`sbiflow run`. Test sets are drawn from the prior predictive, or are sbibm's ten observations, read
from a copy of its repository (`--sbibm FOLDER`); reference draws are those of the simulators.

Columns of the table:

sbibm, paper        C2ST by sbibm's and by the CMPE paper's classifier, on `--draws` draws
                    of `--sets` test sets
training_seconds    processor seconds of a training
seconds_per_1000    processor seconds of 1000 draws

A picture beside `--out` has C2ST against the processor seconds of training.

A seed sets the simulations, the initial weights and the order of training. Every trained posterior
adds one line to `--out`; a repeated command skips what is there.

    python -m benchmarks.frontier --tasks sir --budgets 1000 --seeds 0 1 2
    python -m benchmarks.frontier --tasks slcp --budgets 10000 --label fmpe --set estimator.name=fmpe
    python -m benchmarks.frontier --table
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import estimators
from benchmarks.estimators import CONFIGS, Benchmark, Definition, Task, mean, settings_of
from benchmarks.fit import fit
from benchmarks.observations import of_sbibm
from evaluation.c2st import PAPER, SBIBM, c2st_batch
from pipeline.config import Config, build, override, read

OUT = Path("runs/frontier.jsonl")
TASKS = (
    "two_moons",
    "slcp",
    "slcp_distractors",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture_uniform",
    "bernoulli_glm",
    "bernoulli_glm_raw",
    "sir",
    "lotka_volterra",
)
BUDGETS = (1000, 10_000, 100_000)
SETS = 10
CLASSIFIERS = {"sbibm": SBIBM, "paper": PAPER}


class Frontier(Benchmark):
    """A few test sets of one task with many draws each."""

    def __init__(
        self,
        name: str,
        folder: Path,
        draws: int,
        sbibm: Path | None,
        sets: int = SETS,
        definitions: Sequence[str] = tuple(CLASSIFIERS),
    ) -> None:
        asked = {key: Definition(CLASSIFIERS[key], draws) for key in definitions}
        super().__init__(Task(name, BUDGETS, asked), folder)
        if sbibm is None:
            self.sets = {key: value[:sets] for key, value in self.x.items()}
        else:
            self.sets = {"x": of_sbibm(sbibm, name)[:sets]}

    def observed(self, definition: str) -> dict[str, np.ndarray]:
        return self.sets

    def c2st(self, posterior: estimators.Posterior, passes: int) -> dict[str, float]:
        """Return C2ST by both classifiers, with the standard error over the test sets, and seconds."""
        first = next(iter(self.task.definitions))
        draws_each = self.task.definitions[first].draws
        began = time.process_time()
        drawn = posterior.sample(self.sets, draws_each, sampling_steps=passes or None, seed=0)
        seconds = time.process_time() - began
        draws = drawn.numpy().astype(float)
        result = {"seconds_per_1000": 1000 * seconds / (draws.shape[0] * draws.shape[1])}
        for name, asked in self.task.definitions.items():
            scores = c2st_batch(self.reference(first), draws, definition=asked.definition)
            result[name] = round(float(scores.mean()), 5)
            result[f"{name}_error"] = round(float(scores.std(ddof=1) / np.sqrt(len(scores))), 5)
        return result


def main() -> None:
    """Train and measure what was asked for, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    passes = "network passes of a draw; 0: of an estimator with a fixed number"
    parser.add_argument("--passes", nargs="+", type=int, default=[2, 10], help=passes)
    parser.add_argument("--draws", type=int, default=10_000, help="of one test set")
    parser.add_argument("--sets", type=int, default=SETS, help="test sets, 2 to 10")
    parser.add_argument("--classifiers", nargs="+", default=[*CLASSIFIERS], choices=[*CLASSIFIERS])
    parser.add_argument("--set", nargs="+", default=[], help="settings of all tasks, KEY=VALUE")
    parser.add_argument("--label", default="default", help="name of these settings in the table")
    parser.add_argument("--sbibm", type=Path, help="a copy of sbibm's repository")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not 2 <= asked.sets <= SETS:
        parser.error(f"--sets {asked.sets}: valid are 2 to {SETS}")
    if not asked.table:
        _run(asked)
    lines = _read(asked.out)
    print(table(lines))
    if lines:
        path = asked.out.with_suffix(".png")
        picture(lines, path)
        print(f"accuracy against processor seconds: {path}")


def settings(task: str, changes: list[str]) -> Config:
    """Return the configuration of a task with changes, each KEY=VALUE."""
    return build(override(read(CONFIGS / "frontier" / f"{task}.yaml"), changes))


def _run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {_key(line) for line in _read(asked.out)}
    for task in asked.tasks:
        bench, plan = None, settings_of(settings(task, asked.set))
        for budget, seed in itertools.product(asked.budgets, asked.seeds):
            line: dict[str, Any] = {"task": task, "budget": budget, "label": asked.label}
            line |= {"settings": asked.set, "draws": asked.draws, "seed": seed}
            line["test_sets"] = f"{asked.sets} of {'the prior' if asked.sbibm is None else 'sbibm'}"
            line["classifiers"] = asked.classifiers
            line["passes"] = dict.fromkeys(map(str, asked.passes))
            if _key(line) in done:
                continue
            bench = bench or Frontier(
                task,
                asked.out.parent / "references",
                asked.draws,
                asked.sbibm,
                asked.sets,
                asked.classifiers,
            )
            theta, x = bench.simulations(budget, seed)
            posterior, seconds = fit(plan, bench.simulator.prior, theta, x, seed)
            line["training_seconds"] = round(seconds, 1)
            line["passes"] = {str(k): bench.c2st(posterior, k) for k in asked.passes}
            print(json.dumps(line), flush=True)
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def table(lines: list[dict[str, Any]]) -> str:
    """Return a table of means and standard errors over the seeds."""
    names = "task", "budget", "label", "test_sets", "draws"
    columns = "sbibm", "paper", "training_seconds", "seconds_per_1000"
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        for passes, found in line["passes"].items():
            row = found | {"training_seconds": line["training_seconds"]}
            cells[*(line[name] for name in names), passes].append(row)
    head = [*names, "passes", "seeds", *columns]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, found in cells.items():
        shown = [
            mean([row[column] for row in found if column in row], column)
            if any(column in row for row in found)
            else "–"
            for column in columns
        ]
        text.append("| " + " | ".join([*map(str, key), str(len(found)), *shown]) + " |")
    return "\n".join(text)


def picture(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw C2ST against the processor seconds of training, a panel for each task, into a file."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(3.2 * len(tasks), 3.2), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    markers = dict(
        zip(dict.fromkeys(line["label"] for line in lines), "osv^DPX*<>" * 9, strict=False)
    )
    for task, panel in zip(tasks, axes, strict=True):
        for line in (line for line in lines if line["task"] == task):
            for passes, found in line["passes"].items():
                score = found.get("sbibm", found.get("paper"))
                colour = f"C{sorted(line['passes']).index(passes)}"
                label = f"{line['label']}, {passes} passes"
                panel.plot(
                    line["training_seconds"], score, markers[line["label"]], c=colour, label=label
                )
        told = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(told.values(), told.keys(), fontsize=6)
        panel.set(title=task, xscale="log", xlabel="processor seconds of a training")
    axes[0].set_ylabel("C2ST")
    figure.savefig(path, dpi=120)


def _key(line: dict[str, Any]) -> str:
    names = "task", "budget", "label", "settings", "draws", "seed", "test_sets"
    classifiers = line.get(
        "classifiers", [*CLASSIFIERS]
    )  # of lines from before they could be chosen
    return json.dumps([[line[name] for name in names], classifiers, list(line["passes"])])


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
