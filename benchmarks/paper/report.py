"""The CMPE paper's tables and figures beside ours: runs the studies of `studies/paper` and writes a page.

python -m benchmarks.paper.report                 all of it, days on two cores; writes docs/paper.md
python -m benchmarks.paper.report --plan short    whole trainings, fewer cells and test sets
python -m benchmarks.paper.report --small         a miniature; writes studies/out/small/paper.md
python -m benchmarks.paper.report --page          the page from what is there, without training

What is recorded in `studies/paper/results` is not run again. A single cell, without Ray:

python -m benchmarks.paper.report --plan short --only two_moons --methods CMPE --budgets 512 --seeds 0 --share
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.paper import figures, page, steps
from benchmarks.paper.records import Records, rows_of
from pipeline.errors import PipelineError, Stopped
from pipeline.progress import log
from pipeline.stop import Stop, stop_on_signals
from pipeline.study import schema, stage
from pipeline.study.case import LISTED, StudyCase, cases
from pipeline.study.naming import labelled

STUDIES = Path("studies/paper")
OUT = Path("studies/out")
PAGE = Path("docs/paper.md")
PLANS = {"full": "", "short": "short", "small": "small"}  # folders
SMALL = (
    "small"  # the plan whose figures are not recorded beside the code, nor shown in the documents
)


@dataclass(frozen=True)
class Part:
    """An experiment in a plan.

    Attributes:
        name: of the experiment.
        plan: one of `PLANS`.
        out: folder of all results.
    """

    name: str
    plan: str
    out: Path

    @property
    def source(self) -> Path:
        """The file of the study."""
        return STUDIES / PLANS[self.plan] / f"{self.name}.yaml"

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return self.out / PLANS[self.plan] / self.name

    @property
    def results(self) -> Path:
        """The folder of what is recorded."""
        return self.out / SMALL / "results" if self.plan == SMALL else STUDIES / "results"

    @property
    def records(self) -> Records:
        """What is recorded of the experiment."""
        return Records(self.results / f"{self.name}.jsonl")


@dataclass(frozen=True)
class Cells:
    """Which cells are asked for; None: all."""

    methods: Sequence[str] | None = None
    budgets: Sequence[str] | None = None
    seeds: Sequence[str] | None = None

    def __contains__(self, case: StudyCase) -> bool:
        chosen = ((self.methods, LISTED), (self.budgets, "budget"), (self.seeds, "seed"))
        return all(given is None or case.labels[axis] in given for given, axis in chosen)


def main() -> None:
    """Run the studies and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", choices=PLANS, default="full", help="which studies")
    parser.add_argument("--small", action="store_const", dest="plan", const=SMALL)
    parser.add_argument(
        "--page", action="store_true", help="train nothing, record what is complete"
    )
    parser.add_argument("--only", nargs="+", help="experiments")
    parser.add_argument("--methods", nargs="+", help="of these cases of the study")
    parser.add_argument("--budgets", nargs="+")
    parser.add_argument("--seeds", nargs="+")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the studies")
    parser.add_argument(
        "--share", action="store_true", help="without Ray, as one of many processes"
    )
    given = parser.parse_args()
    published = YAML(typ="safe", pure=True).load((STUDIES / "published.yaml").read_text())
    if unknown := set(given.only or ()) - set(published):
        parser.error(f"--only {sorted(unknown)}; valid: {', '.join(published)}")
    parts = [Part(name, given.plan, given.out) for name in given.only or published]
    parts = [part for part in parts if part.source.exists()]
    if given.page:
        for part in parts:
            record(part, schema.read(part.source))
    else:
        cells = Cells(given.methods, given.budgets, given.seeds)
        with stop_on_signals() as stop:
            try:
                run(parts, cells, given.share, stop)
            except Stopped as error:
                log(f"paper: {error}")
                sys.exit(error.exit_code)
    log(f"paper: {write(published, given.plan, given.out)}")


def run(parts: Sequence[Part], cells: Cells, share: bool, stop: Stop) -> None:
    """Do what is not recorded, and record it; a failed case leaves its cell empty."""
    for part in parts:
        for study in missing(part, cells):
            try:
                (stage.share if share else stage.study)(study, part.folder, stop)
            except PipelineError as error:
                stop.check("paper")
                log(f"paper: {part.source}: {error}")
            record(part, study)
        steps.measure(part.folder, Records(part.results / "steps.jsonl"), part.plan)


def missing(part: Part, cells: Cells) -> Iterator[schema.Study]:
    """Yield studies of the cases that are not recorded, the smallest budgets first."""
    study = schema.read(part.source)
    done = part.records.settings
    todo = [c for c in cases(study, part.folder) if c.digest not in done and c in cells]
    listed, budgets, seeds = (
        labelled(values) for values in (study.cases, study.axes["budget"], study.axes["seed"])
    )
    for budget in budgets:
        groups: dict[tuple[str, ...], list[str]] = {}
        for method in listed:
            found = [c for c in todo if c.labels["budget"] == budget and c.labels[LISTED] == method]
            if found:
                groups.setdefault(tuple(c.labels["seed"] for c in found), []).append(method)
        for wanted, methods in groups.items():
            axes = {"budget": {budget: budgets[budget]}, "seed": [seeds[seed] for seed in wanted]}
            chosen = {method: listed[method] for method in methods}
            yield study.model_copy(update={"cases": chosen, "axes": axes})


def record(part: Part, study: schema.Study) -> None:
    """Record the cases of a study that are complete."""
    records = part.records
    known = records.settings
    for case in cases(study, part.folder):
        if case.digest not in known:
            records.add(rows_of(case, part.plan))


def write(published: dict[str, Any], plan: str, out: Path) -> Path:
    """Write the page and its figures, and return where it is."""
    parts = [Part(name, plan, out) for name in published]
    small = plan == SMALL
    path = out / SMALL / "paper.md" if small else PAGE
    pictures = path.parent / ("images" if small else "images/paper")
    rows = {part.name: part.records.rows for part in parts}
    speed = Records(parts[0].results / "steps.jsonl").rows
    figures.write(published, rows, speed, [part.folder for part in parts], pictures)
    density = Records(parts[0].results / "density.jsonl").rows
    text = page.text(published, rows, speed, density, pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
