"""The CMPE paper's tables beside ours: runs the studies of `studies/paper` and writes a page.

python -m benchmarks.paper.report                 all of it, days on two cores; writes docs/paper.md
python -m benchmarks.paper.report --small         a miniature, minutes; writes studies/out/small/paper.md
python -m benchmarks.paper.report --only two_moons --page     the page from what is there
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.progress import duration, log
from pipeline.stop import stop_on_signals
from pipeline.study import schema, stage
from pipeline.study.results import read

STUDIES = Path("studies/paper")
OUT = Path("studies/out")
PLANS = {"full": "", "short": "short", "small": "small"}  # folders
METRIC = "c2st_paper.mean"
HEAD = """\
# The CMPE paper, reproduced

The tables of the paper on consistency models for simulation-based inference (Schmitt et al. 2023,
arXiv 2312.05440) beside what sbiflow gives. Every cell is C2ST by the paper's definition, lower is
better: **paper / here**. The paper has one training for each cell. "Here" is the mean over seeds
and its standard error; a dash stands for what was not run. A number behind a method is that of its
sampling steps; FMPE takes one more, as in the paper's code.

`make paper` runs all of `studies/paper`, days on two cores, and writes this page. A shorter plan,
`python -m benchmarks.paper.report --plan short`, has whole trainings but fewer cells: two moons at
512, without FMPE. A section says where nothing was run yet. [The paper's
CMPE](experiments/cmpe_paper.md) has its figures at 1024 and 8192, and its choices one at a time.
"""
DEVIATIONS = """\
## What differs from the paper's code

- Each budget holds out a share of its rows for validation (`train.validation`); the paper validates
  on other rows.
- The step counter of CMPE's curriculum runs ahead by 1/16, as in the paper's code at 1024, at all
  budgets.
- The domain of the splines is fixed, [-5, 5]; the paper's code learns it.
- Rows are shuffled as a whole in each epoch; the paper's code shuffles within 1024 rows.
- Adam's epsilon is 1e-8, that of Keras 1e-7.
- Simulations and test observations are others.
"""


def main() -> None:
    """Run the studies and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", choices=PLANS, default="full", help="which studies")
    parser.add_argument("--small", action="store_const", dest="plan", const="small")
    parser.add_argument("--page", action="store_true", help="train nothing")
    parser.add_argument("--only", nargs="+", help="experiments")
    given = parser.parse_args()
    folder, out = STUDIES / PLANS[given.plan], OUT / PLANS[given.plan]
    published = YAML(typ="safe", pure=True).load((STUDIES / "published.yaml").read_text())
    if unknown := set(given.only or ()) - set(published):
        parser.error(f"--only {sorted(unknown)}; valid: {', '.join(published)}")
    if not given.page:
        for name in given.only or published:
            if (folder / f"{name}.yaml").exists():
                run(folder / f"{name}.yaml", out / name)
    parts = [section(one, out / name, folder / f"{name}.yaml") for name, one in published.items()]
    page = out / "paper.md" if given.plan == "small" else Path("docs/paper.md")
    page.write_text("\n".join([HEAD, *parts, DEVIATIONS]), encoding="utf-8")
    log(f"paper: {page}")


def run(source: Path, folder: Path) -> None:
    """Do what is missing of a study; a failed case leaves its cell empty."""
    with stop_on_signals() as stop:
        try:
            stage.study(schema.read(source), folder, stop)
        except PipelineError as error:
            stop.check("paper")
            log(f"paper: {source}: {error}")


def section(published: Mapping[str, Any], folder: Path, source: Path) -> str:
    """Return the text of an experiment."""
    lines = [f"## {published['title']}", "", published["note"], ""]
    result: dict[str, Any] = {"table": [], "cases": []}
    if (folder / "study.json").exists():
        result = read(folder)
        lines += ["```bash", f"sbiflow study {source} -o {folder}", "```", ""]
    rows = list(_rows(published, result))
    budgets = sorted({budget for _, cells in rows for budget in cells})
    lines += [
        f"| method, steps | {' | '.join(map(str, budgets))} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for name, cells in rows:
        lines.append(f"| {name} | {' | '.join(cells.get(budget, '') for budget in budgets)} |")
    done = [case for case in result["cases"] if case["state"] == "complete"]
    seeds = sorted({case["seed"] for case in done})
    spent = duration(sum(case["seconds"] for case in done))
    told = f"Seeds {', '.join(map(str, seeds))}; {len(done)} trainings, {spent} in all."
    return "\n".join([*lines, "", told if done else "Not run here yet.", ""])


def _rows(
    published: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[tuple[str, dict[int, str]]]:
    """Yield the cells of each method with a number of sampling steps, by budget."""
    here: dict[str, dict[int, str]] = {}
    for row in result["table"]:
        name = row["axes"]["case"].replace("_", " ")
        name = name if row["sampling_steps"] is None else f"{name} {row['sampling_steps']}"
        value = row["metrics"].get(METRIC)
        if value and value["mean"] is not None:
            sem = "" if value["sem"] is None else f" ± {value['sem']:.3f}"
            here.setdefault(name, {})[row["budget"]] = f"{value['mean']:.3f}{sem}"
    for name in dict.fromkeys([*published["c2st"], *here]):
        paper = dict(zip(published["budgets"], published["c2st"].get(name, ()), strict=False))
        found = here.get(name, {})
        budgets = found if not paper else {**paper, **found}
        yield (
            name,
            {
                budget: f"{_figure(paper.get(budget))} / {found.get(budget, '–')}"
                for budget in budgets
            },
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
