"""The text of the page on the paper's tables: its figures beside what is recorded."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.progress import duration

Row = Mapping[str, Any]
DENSITY = ("error", "error_90", "ess", "evidence")  # columns
WIDTH = 100  # characters of a line in the documents
CLOSE = 0.02  # of the paper's figure, which is one training
BEST = ("full", "direct", "short", "small")  # plans, the first that has a cell gives its figure
MARKS = {"direct": "+", "short": "*"}
HEAD = """\
# The CMPE paper, reproduced

The tables and figures of the paper on consistency models for simulation-based inference (Schmitt et
al. 2023, arXiv 2312.05440) beside what sbiflow gives. A cell is **paper / here**, lower is better,
and "–" stands for what was not run. A number behind a method is that of its sampling steps; FMPE
takes one more, as in the paper's code. The paper has one training for each cell. In brackets is the
number of seeds here, 0 and up; ± is the standard error over them. The standard error of one
training over its test sets is 0.006 at 100 test sets, 0.008 at 40 and 0.016 at 10. A star marks the
shorter plan, a plus a training of `python -m benchmarks.paper`.

C2ST is the paper's: 4000 draws, a perceptron with two layers of 16 D units, one split into three
quarters and one quarter ([metrics](metrics.md)).

| command | does |
|---|---|
| `make paper` | runs all of `studies/paper`, days on two cores, and writes this page |
| `make paper SMALL=1` | a miniature with its own page in `studies/out/small` |
| `python -m benchmarks.paper.report --plan short` | the shorter plan, cells with a star |
| `python -m benchmarks.paper.report --page` | writes this page from `studies/paper/results` |
| `python -m benchmarks.paper --budget 1024 --protocol as_coded` | a cell of CMPE with a plus |

What is recorded in `studies/paper/results`, with the times, is not run again. One cell:

```bash
python -m benchmarks.paper.report --plan short --only two_moons --methods CMPE --budgets 512 --seeds 0
```
"""
PICTURES = {
    "budgets.png": "C2ST against the budget. Lines: the paper. Points: here.",
    "speed.png": "C2ST against sampling steps and seconds. Lines: the paper. Points: here.",
    "posteriors.png": "Two parameters of one test set, with the wall seconds of 1000 draws under load.",
    "arm.png": "The arm at draws for one observation, the cross; re-simulation shows what is off.",
}
DEVIATIONS = """\
## What differs from the paper's code

- Simulations and test observations are others.
- The step counter of CMPE's curriculum runs ahead by 1/16, as in the paper's code at 1024, at all
  budgets.
- The domain of the splines is fixed, [-5, 5]; the paper's code learns it.
- Rows are shuffled as a whole in each epoch; the paper's code shuffles within 1024 rows.
- Adam's epsilon is 1e-8, that of Keras 1e-7.

The training rows are exactly as many as in the paper: a study simulates a few more, which validate
and decide nothing. Seconds are wall time on a shared machine with two cores, under load.

The shorter plan: two moons up to 2048; 40 test sets; FMPE with 8 times t for each row in a step, a
quarter of the paper's, and 10 test sets. Trainings have their full length. With a plus: as in the
full plan, but the counter of the curriculum runs ahead by the paper's share at each budget.

Experiments 4 and 5 are the studies `fashion_denoising` and `tumor_spheroid` in `studies/paper`;
`make paper` does not run them. Nobody has run them at full length: for shorter trainings see the
logs on [images](experiments/images.md) and the
[tumour spheroid](experiments/tumor_spheroid_training.md).
"""


def text(
    published: Mapping[str, Row],
    rows: Mapping[str, Sequence[Row]],
    speed: Sequence[Row],
    density: Sequence[Row],
    images: Path,
) -> str:
    """Return the page.

    Arguments:
        published: the paper's figures by experiment.
        rows: what is recorded, by experiment.
        speed: C2ST against sampling steps, of all experiments.
        density: what `benchmarks.density` printed.
        images: folder of the pictures, those that are there are shown.
    """
    parts = [HEAD]
    for name, one in published.items():
        parts += [section(one, rows[name]), resimulation(one, rows[name])]
        parts.append(against_steps(one, [row for row in speed if row["experiment"] == name]))
    shown = [
        f"![{caption}]({images.name if images.name == 'images' else 'images/paper'}/{file})\n"
        for file, caption in PICTURES.items()
        if (images / file).exists()
    ]
    if shown:
        parts.append("\n".join(["## Figures\n", *shown]))
    parts.append(densities(density))
    return "\n".join([*(part for part in parts if part), DEVIATIONS])


def section(published: Row, rows: Sequence[Row]) -> str:
    """Return the table of C2ST of an experiment, and how far it is from the paper's."""
    lines = [f"## {published['title']}", "", published["note"], ""]
    found = averages(rows, "c2st")
    lines += list(_table(published, published["c2st"], found))
    return "\n".join([*lines, "", _told(published, found, rows), ""])


def resimulation(published: Row, rows: Sequence[Row]) -> str:
    """Return the table of re-simulation errors, "" where the paper has none."""
    if "resimulation" not in published:
        return ""
    lines = [
        "Re-simulation error: distance of the arm's end points at draws from the observed one.",
        "",
    ]
    lines += _table(published, published["resimulation"], averages(rows, "resimulation"))
    return "\n".join([*lines, ""])


def against_steps(published: Row, rows: Sequence[Row]) -> str:
    """Return the table of C2ST and seconds against sampling steps, "" where nothing is there."""
    if not rows:
        return ""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    where = {row["method"]: (row["budget"], row["tests"]) for row in rows}
    told = "; ".join(f"{name} at {n}, {tests} test sets" for name, (n, tests) in where.items())
    lines = [
        wrapped(
            f"Against the number of sampling steps K: {told}. The paper: 1024, 100 test sets. s/1000 are",
            "the seconds of 1000 draws: processor time here, on the authors' laptop there.",
        ),
        "",
    ]
    lines.append(f"| K | {' | '.join(f'{name} C2ST | {name} s/1000' for name in methods)} |")
    lines.append("|---" * (2 * len(methods) + 1) + "|")
    for steps in sorted({row["sampling_steps"] for row in rows}):
        cells = []
        for name in methods:
            paper = _published_speed(published.get("speed", {}), name, steps)
            here = [r for r in rows if r["method"] == name and r["sampling_steps"] == steps]
            values = (here[-1]["c2st"], here[-1]["seconds_per_1000"]) if here else (None, None)
            cells += [f"{figure(p)} / {figure(v)}" for p, v in zip(paper, values, strict=True)]
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def densities(rows: Sequence[Row]) -> str:
    """Return the table of densities against exact posteriors, "" where nothing is there."""
    if not rows:
        return ""
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    lines = [
        "## Densities of few-step posteriors",
        "",
        wrapped(
            "How good are the densities that the paper names for consistency models? `cmpe` is trained",
            f"on {first['budget']} simulations with {first['steps']} steps. One step: its draws of one step",
            "have a density by change of variables. Surrogate: a flow fitted to its draws of ten steps.",
            "Flow: a spline flow trained on the simulations. The error is the median of |log q - log p|",
            "over draws from q, and its 90 % quantile. ESS is that of importance weights, as a share of",
            "the draws. The last column is the error of the log evidence. Medians over",
            f"{first['tests']} test sets; seeds {', '.join(map(str, seeds))}.",
        ),
        "",
        "| task | density | error | 90 % | ESS | log evidence |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["density"]), []).append(row)
    for (task, density), ones in groups.items():
        cells = [f"{np.mean([one[key] for one in ones]):.3f}" for key in DENSITY]
        lines.append(f"| {task.replace('_', ' ')} | {density} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "`python -m benchmarks.density` measures it.", ""])


def averages(rows: Iterable[Row], key: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return mean, standard error, number of seeds and plan of each method and budget.

    Of a cell that several plans have, the fullest counts.
    """
    cells: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.get(key) is not None:
            cell = cells.setdefault((method_of(row), row["budget"]), {})
            cell.setdefault(row["plan"], {})[row["seed"]] = row[key]
    found = {}
    for cell_key, plans in cells.items():
        plan = next(name for name in BEST if name in plans)
        values = list(plans[plan].values())
        n = len(values)
        error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
        found[cell_key] = {"mean": float(np.mean(values)), "sem": error, "n": n, "plan": plan}
    return found


def method_of(row: Row) -> str:
    """Return the name of a method with its sampling steps, as the tables have it."""
    name = str(row["method"]).replace("_", " ")
    return name if row["sampling_steps"] is None else f"{name} {row['sampling_steps']}"


def _table(
    published: Row, paper: Mapping[str, Sequence[float]], found: Mapping[tuple[str, int], Row]
) -> Iterator[str]:
    budgets = sorted({*published["budgets"], *(budget for _, budget in found)})
    yield f"| method, steps | {' | '.join(map(str, budgets))} |"
    yield "|---" * (len(budgets) + 1) + "|"
    for name in dict.fromkeys([*paper, *(method for method, _ in found)]):
        known = dict(zip(published["budgets"], paper.get(name, ()), strict=False))
        cells = [f"{figure(known.get(n))} / {_cell(found.get((name, n)))}" for n in budgets]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(value: Row | None) -> str:
    if value is None:
        return figure(None)
    error = "" if value["sem"] is None else f" ± {value['sem']:.3f}"
    return f"{value['mean']:.3f}{error}{MARKS.get(value['plan'], '')} ({value['n']})"


def _told(published: Row, found: Mapping[tuple[str, int], Row], rows: Sequence[Row]) -> str:
    """Return how many cells are close to the paper's, which are not, and what they cost."""
    if not rows:
        return "Not run here yet."
    gaps = {}
    for name, values in published["c2st"].items():
        for budget, value in zip(published["budgets"], values, strict=True):
            if (name, budget) in found:
                gaps[name, budget] = found[name, budget]["mean"] - value
    far = [f"{name} at {n} ({gap:+.3f})" for (name, n), gap in gaps.items() if abs(gap) > CLOSE]
    trainings = {row["settings"]: row["training_seconds"] for row in rows}
    return wrapped(
        f"{len(gaps) - len(far)} of {len(gaps)} cells lie within {CLOSE} of the paper.",
        f"Further off: {'; '.join(far)}." if far else "",
        f"{len(trainings)} trainings, {duration(sum(trainings.values()))} of training.",
    )


def wrapped(*parts: str) -> str:
    """Return a paragraph in lines of the documents' width."""
    text = " ".join(part for part in parts if part)
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _published_speed(speed: Row, method: str, steps: int) -> tuple[float | None, float | None]:
    if method not in speed or steps not in speed["steps"]:
        return None, None
    at = speed["steps"].index(steps)
    return speed[method]["c2st"][at], speed[method]["seconds"][at]


def figure(value: float | None) -> str:
    """Return a number as the tables have it."""
    return "–" if value is None else f"{value:.3f}"
