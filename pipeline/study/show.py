"""What `sbiflow study` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.progress import duration
from pipeline.show import size
from pipeline.study.curve import sentence

COLUMNS = {  # of the printed table, in this order, where they were measured
    "c2st.mean": "C2ST",
    "c2st_paper.mean": "C2ST (paper)",
    "mmd.mean": "MMD",
    "rmse_paper.mean": "RMSE (paper)",
    "nrmse.mean": "NRMSE",
    "rmse.mean": "RMSE",
    "ece.max": "MaxECE",
    "validation_loss": "loss",
    "seconds.median": "s/1000",
}
MOST = 5  # metrics in the printed table


def study(result: Mapping[str, Any], folder: Path) -> str:
    """Return the table of a study, its failures, and where the page is."""
    lines = grid(*table(result["table"]))
    for case in result["cases"]:
        if case["state"] != "complete":
            lines.append(f"{case['state']}: {case['name']}: {case['reason']}".rstrip(": "))
    lines += [f"\n{one}" for one in curves(result["curves"])]
    return "\n".join([*lines, "", f"page  {(folder / 'study.html').resolve()}"])


def states(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many cases are complete, failed and missing, and which are not complete."""
    told = [row["state"] for row in rows]
    counts = ", ".join(
        f"{told.count(state)} {state}" for state in ("complete", "failed", "missing")
    )
    open_ = [row for row in rows if row["state"] != "complete"]
    lines = [f"  {row['state']}: {row['name']}: {row['reason']}".rstrip(": ") for row in open_]
    return "\n".join([f"{len(rows)} cases: {counts}", *lines])


def curves(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the learning curves of the most important metric say."""
    names = [name for name in COLUMNS if any(one["metric"] == name for one in found)]
    return [sentence(one, COLUMNS[one["metric"]]) for one in found if one["metric"] in names[:1]]


def table(rows: Sequence[Mapping[str, Any]], most: int = MOST) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of means."""
    if not rows:
        return [], []
    there = {name for row in rows for name, value in row["metrics"].items() if value["n"]}
    names = [name for name in COLUMNS if name in there][:most]
    axes = list(dict.fromkeys(axis for row in rows for axis in row["axes"]))
    steps = any(row["sampling_steps"] is not None for row in rows)
    head = [*axes, *(["sampling steps"] if steps else []), "seeds", *(COLUMNS[n] for n in names)]
    body = []
    for row in rows:
        where = [row["axes"].get(axis, "") for axis in axes]
        taken = [str(row["sampling_steps"] or "")] if steps else []
        cells = [figure(row["metrics"].get(name)) for name in names]
        body.append([*where, *taken, str(row["seeds"]), *cells])
    return head, body


def figure(value: Mapping[str, Any] | None) -> str:
    """Return a mean with its standard error, as precise as that is."""
    if value is None or value["mean"] is None:
        return "-"
    if value["sem"] is None:
        return f"{value['mean']:.4g}"
    return f"{value['mean']:.4g} ± {value['sem']:.2g}"


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines, none for an empty table."""
    if not head:
        return []
    widths = [max(len(row[k]) for row in [head, *body]) for k in range(len(head))]
    return [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *body]
    ]


def forecast(values: Mapping[str, Any]) -> str:
    """Return what a study would cost."""
    lines = [
        f"{values['trainings']} trainings to do, {values['complete']} of {values['cases']} cases are complete",
        f"{values['simulations']} new simulations, {values['simulation_core_hours']:.3g} core hours",
        f"{values['steps']} optimiser steps, {values['training_core_hours']:.3g} core hours without evaluation",
        f"about {duration(values['wall_seconds'])} here, {values['parallel']} cases at a time",
        f"about {size(values['bytes'])} of simulations and draws",
    ]
    for rate in values["rates"]:
        source = "of finished trainings" if rate["from"] == "trainings" else "measured now"
        lines.append(
            f"  {rate['estimator']}, batch {rate['batch_size']}: {rate['ms']:.3g} ms a step, {source}"
        )
    return "\n".join(lines)
