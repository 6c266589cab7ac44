"""The page of a study: its tables and plots in one self-contained file, `study.html`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import study_plots
from evaluation.plots import svg
from evaluation.study_plots import Series
from pipeline.files import write_whole, writing
from pipeline.progress import duration
from pipeline.report import page
from pipeline.report.contents import count
from pipeline.report.page import Headline
from pipeline.report.pictures import NULLS, Picture
from pipeline.results import Results
from pipeline.run import RunDirectory
from pipeline.study import curve as curves
from pipeline.study.case import CASES
from pipeline.study.show import COLUMNS, table

PAGE = "study.html"
LINES = 16  # combinations in one plot
PLOTTED = 3  # metrics that are plotted
SPEED, LOSS = "seconds.median", "validation_loss"
Row = Mapping[str, Any]


def write(result: Row, folder: Path) -> Path:
    """Write `study.html` and return where it is.

    Arguments:
        result: the content of `study.json`.
        folder: of the study.
    """
    path = folder / PAGE
    sections = [
        _failures(result),
        page.section("Means over the seeds", _table(result)),
        _budgets(result),
        _learning(result),
        _sampling(result),
        page.section("Calibration", page.figures(_calibration(result, folder))),
        _simulations(result),
        _cases(result),
    ]
    with writing(path):
        write_whole(path, page.page(result["name"], _lead(result), _headlines(result), sections))
    return path


def _lead(result: Row) -> str:
    axes = [f"{len(names)} of {axis}" for axis, names in result["axes"].items()]
    trained = sum(case["state"] == "complete" for case in result["cases"])
    return f"{count(trained)} trainings of {len(result['cases'])}: {', '.join(axes)}."


def _headlines(result: Row) -> Iterator[Headline]:
    for name in _metrics(result)[:PLOTTED]:
        known = [
            row for row in result["table"] if row["metrics"].get(name, {}).get("mean") is not None
        ]
        best = min(known, key=lambda row: row["metrics"][name]["mean"])
        value = best["metrics"][name]
        extra = "" if value["sem"] is None else f"± {value['sem']:.2g}"
        yield Headline(f"Lowest {COLUMNS[name]}", f"{value['mean']:.4g}", extra, _who(best, True))
    spent = sum(case.get("seconds", 0) for case in result["cases"])
    yield Headline("Training time", duration(spent), "", "Wall seconds of all trainings together.")


def _failures(result: Row) -> str:
    rows = [
        [case["name"], case["state"], case["reason"]]
        for case in result["cases"]
        if case["state"] != "complete"
    ]
    return page.section(
        "Cases without result", page.table(["case", "state", "reason"], rows, prose=2)
    )


def _table(result: Row) -> str:
    seeds = len(result["axes"].get("seed", [""]))
    note = f"± is the standard error over up to {seeds} seeds." if seeds > 1 else ""
    return page.table(*table(result["table"], len(COLUMNS))) + page.paragraph(note, "note")


# --- plots ---------------------------------------------------------------------------------------


def _metrics(result: Row) -> list[str]:
    """Return the metrics to plot, the most important first; losses of different estimators are not comparable."""
    without = {SPEED} | (
        {LOSS} if len({row["estimator"] for row in result["table"]}) > 1 else set()
    )
    there = {n for row in result["table"] for n, value in row["metrics"].items() if value["n"]}
    return [name for name in COLUMNS if name in there - without]


def _budgets(result: Row) -> str:
    if len({row["budget"] for row in result["table"]}) < 2:
        return ""
    first = _first_steps(result)
    rows = [row for row in result["table"] if row["sampling_steps"] in first]
    pictures = [
        (
            svg(
                study_plots.lines(
                    series, "budget", COLUMNS[name], _best(name), _bands(result, name)
                )
            ),
            caption,
        )
        for name in _metrics(result)[:PLOTTED]
        if (series := _series(rows, name, "budget"))
        for caption in [
            f"{COLUMNS[name]} against the budget; shaded: where the fitted curve goes on, 90 %."
        ]
    ]
    return page.section("Against the budget", page.figures(pictures))


def _first_steps(result: Row) -> set[Any]:
    """Return the numbers of sampling steps that give the headline figures."""
    return {
        case["measured"][0]["sampling_steps"] for case in result["cases"] if case.get("measured")
    }


def _series(rows: Sequence[Row], metric: str, x: str) -> list[Series]:
    """Return a line for each combination: a metric against `budget`, `sampling_steps` or the seconds."""
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        value = row["metrics"].get(metric, {})
        at = row["metrics"].get(x, {}).get("mean") if x == SPEED else row.get(x)
        if value.get("mean") is None or at is None:
            continue
        sem = math.nan if value["sem"] is None else value["sem"]
        name = _who(row, x == "budget", () if x != "budget" else ("budget",))
        groups.setdefault(name, []).append((at, value["mean"], sem))
    return [
        Series(name, *np.array(sorted(found)).T) for name, found in list(groups.items())[:LINES]
    ]


def _who(row: Row, steps: bool = False, without: Sequence[str] = ()) -> str:
    parts = [name for axis, name in row["axes"].items() if axis not in without]
    if steps and row["sampling_steps"] is not None:
        parts.append(f"{row['sampling_steps']} steps")
    return ", ".join(parts) or "all cases"


def _best(name: str) -> float | None:
    return NULLS.get(name.partition(".")[0])


def _bands(result: Row, metric: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = {}
    for one in result.get("curves", ()):
        if one["metric"] == metric:
            now, ahead = one["budgets"][-1], one["next"]
            mean = one["means"][-1]
            x = np.array([now, ahead["budget"]])
            name = _who(one, True)
            found[name] = x, np.array([mean, ahead["low"]]), np.array([mean, ahead["high"]])
    return found


def _learning(result: Row) -> str:
    sentences = [
        page.paragraph(curves.sentence(one, COLUMNS[one["metric"]]) + ".")
        for one in result.get("curves", ())
        if one["metric"] in _metrics(result)[:PLOTTED]
    ]
    return page.section("Would more simulations help?", *sentences)


def _sampling(result: Row) -> str:
    largest = max((row["budget"] for row in result["table"]), default=0)
    rows = [row for row in result["table"] if row["budget"] == largest]
    pictures: list[Picture] = []
    for name in [name for name in _metrics(result) if name != LOSS][:2]:
        steps = [one for one in _series(rows, name, "sampling_steps") if len(one.x) > 1]
        if steps:
            caption = f"{COLUMNS[name]} against the sampling steps, budget {count(largest)}."
            pictures.append(
                (
                    svg(study_plots.lines(steps, "sampling steps", COLUMNS[name], _best(name))),
                    caption,
                )
            )
        if series := _series(rows, name, SPEED):
            points = np.concatenate([np.stack([one.x, one.y], 1) for one in series])
            figure = study_plots.pareto(
                series, study_plots.not_beaten(points), "seconds per 1000 draws", COLUMNS[name]
            )
            caption = f"{COLUMNS[name]} against the seconds of 1000 draws; dotted: what no other beats in both."
            pictures.append((svg(figure), caption))
    return page.section("Sampling steps and seconds", page.figures(pictures))


def _calibration(result: Row, folder: Path) -> Iterator[Picture]:
    """Draw the coverage of all combinations of the largest budget together, over their seeds."""
    done = [case for case in result["cases"] if case["state"] == "complete"]
    largest = max((case["budget"] for case in done), default=0)
    ranks: dict[str, list[np.ndarray]] = {}
    for case in done:
        if case["budget"] == largest:
            evaluated = (
                Results(RunDirectory(folder / CASES / case["name"]), case["training"]).evaluated()
                or {}
            )
            fractions = evaluated.get("metrics", {}).get("sbc", {}).get("fractions")
            if fractions is not None:
                name = ", ".join(
                    v for axis, v in case["axes"].items() if axis not in ("seed", "budget")
                )
                ranks.setdefault(name or case["name"], []).append(np.array(fractions))
    if ranks:
        together = {name: np.concatenate(parts) for name, parts in list(ranks.items())[:LINES]}
        sets = min(len(values) for values in together.values())
        caption = (
            f"Coverage of central intervals, budget {count(largest)}, averaged over parameters. At each level the"
            f" band holds a perfect sampler in 95 % of cases, for one parameter and {sets} test sets."
        )
        yield svg(study_plots.calibration(together, sets)), caption


# --- where it comes from -------------------------------------------------------------------------


def _simulations(result: Row) -> str:
    rows = [
        [one["name"], count(one["budget"]), count(one["test"]), one["cases"],
         ", ".join(f"{key}={value}" for key, value in one["differs"].items())]
        for one in result["simulations"]
    ]  # fmt: skip
    head = ["simulations", "budget", "test", "cases", "what tells it from the others"]
    return page.section("Simulations", page.table(head, rows, prose=4))


def _cases(result: Row) -> str:
    rows = [
        [case["name"], count(case["steps"]), duration(case["seconds"]), f"{case['validation_loss']:.4g}"
         if case["validation_loss"] is not None else "", case["training"]]
        for case in result["cases"]
        if case["state"] == "complete"
    ]  # fmt: skip
    head = ["case", "optimiser steps", "time", "validation loss", "training"]
    return page.section("Cases", page.details("all cases", page.table(head, rows)))
