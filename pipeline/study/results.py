"""What the cases of a study gave, side by side: `study.json`."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DamagedError
from pipeline.evaluate.metric import numbers
from pipeline.files import read_document, write_document
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.study.case import CASES, StudyCase
from pipeline.study.curve import learning_curves
from pipeline.study.schema import Study
from pipeline.study.simulations import Simulations

FORMAT = 1
RESULT = "study.json"
SEED = "seed"  # the axis that a table averages over


def write(study: Study, folder: Path, shared: Sequence[Simulations]) -> dict[str, Any]:
    """Write `study.json` and return its content."""
    rows = [case_row(case, one) for one in shared for case in one.cases]
    now = int(1000 * time.time())
    content = {
        "format": FORMAT,
        "name": study.name,
        **_begun(folder, now),
        "ended": now,
        "axes": _axes(rows),
        "simulations": [_simulated(one) for one in shared],
        "cases": rows,
        "table": table(rows),
        "curves": learning_curves(rows),
    }
    write_document(folder / RESULT, content)
    return content


def _begun(folder: Path, now: int) -> dict[str, Any]:
    """Return the identity of a study, and when it was first written, in milliseconds since 1970."""
    try:
        before = read(folder)
        return {key: before[key] for key in ("identity", "started")}
    except (FileNotFoundError, DamagedError, KeyError):
        return {"identity": uuid.uuid4().hex[:16], "started": now}


def read(folder: Path) -> dict[str, Any]:
    """Return the content of `study.json`; raises as `read_document` does."""
    content: dict[str, Any] = read_document(folder / RESULT)
    return content


def states(found: Sequence[StudyCase]) -> list[dict[str, Any]]:
    """Return name, `state` (complete, failed, missing) and reason of each case, as the folder has them now."""
    rows = []
    for case in found:
        reason = case.failure()
        complete = not reason and case.finished() is not None
        state = "complete" if complete else "failed" if reason else "missing"
        rows.append({"name": case.name, "state": state, "reason": reason})
    return rows


def curves_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the learning curves of the study that a run is a case of, for its combination; none elsewhere."""
    folder = run.path.parent.parent
    if run.path.parent.name != CASES or not (folder / RESULT).exists():
        return []
    try:
        result = read(folder)
    except DamagedError as error:
        log(f"{error}; `sbiflow study -o {folder}` makes it anew")
        return []
    rows = [case["axes"] for case in result["cases"] if case["name"] == run.path.name]
    axes: dict[str, str] = rows[0] if rows else {}
    return [one for one in result["curves"] if one["axes"].items() <= axes.items()]


def case_row(case: StudyCase, shared: Simulations) -> dict[str, Any]:
    """Return what is known of a case."""
    row: dict[str, Any] = {
        "name": case.name,
        "axes": case.labels,
        "settings": case.settings,
        "budget": case.config.budget,
        "seed": case.config.seed,
        "estimator": case.config.estimator.name,
        "simulations": shared.name,
    }
    results = case.finished()
    if results is None:
        reason = case.failure()
        return row | {"state": "failed" if reason else "missing", "reason": reason}
    done, evaluated = results.done() or {}, results.evaluated() or {}
    return row | {
        "state": "complete",
        "training": results.key,
        "store_digest": done["store_digest"],
        "weights": evaluated["settings"]["weights"],
        "steps": done["steps"],
        "seconds": done["seconds"],
        "evaluation_seconds": evaluated["seconds"],
        "validation_loss": done["best_validation_loss"],
        "measured": list(measured(evaluated)),
    }


def measured(evaluated: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield for each number of sampling steps the numbers of all metrics."""
    for one in [{"metrics": evaluated["metrics"]}, *evaluated["sweep"]]:
        steps = [metric.get("sampling_steps") for metric in one["metrics"].values()]
        taken = next((number for number in steps if number is not None), None)
        yield {"sampling_steps": taken, "metrics": numbers(one["metrics"])}


def _axes(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for axis, name in row["axes"].items():
            found.setdefault(axis, {})[name] = None
    return {axis: list(names) for axis, names in found.items()}


def _simulated(shared: Simulations) -> dict[str, Any]:
    return {
        "name": shared.name,
        "differs": shared.differs,
        "budget": shared.config.budget,
        "test": shared.config.test,
        "cases": len(shared.cases),
    }


def table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for all seeds of a combination and a number of sampling steps: means and standard errors."""
    groups: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], dict[str, float]]]] = {}
    for row in rows:
        if row["state"] != "complete":
            continue
        axes = tuple((axis, name) for axis, name in row["axes"].items() if axis != SEED)
        for one in row["measured"]:
            values = {"validation_loss": row["validation_loss"], "training_seconds": row["seconds"]}
            values |= one["metrics"]
            key = (*axes, ("sampling_steps", one["sampling_steps"]))
            groups.setdefault(key, []).append((row, values))
    return [_averaged(dict(key), members) for key, members in groups.items()]


def _averaged(
    axes: dict[str, Any], members: Sequence[tuple[Mapping[str, Any], dict[str, float]]]
) -> dict[str, Any]:
    steps = axes.pop("sampling_steps")
    names = dict.fromkeys(name for _, values in members for name in values)
    return {
        "axes": axes,
        "budget": members[0][0]["budget"],
        "estimator": members[0][0]["estimator"],
        "sampling_steps": steps,
        "seeds": len(members),
        "metrics": {name: average([values.get(name) for _, values in members]) for name in names},
    }


def average(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Return mean, standard error and number of the values that are there."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    n = len(known)
    return {
        "mean": float(np.mean(known)) if n else None,
        "sem": float(np.std(known, ddof=1) / math.sqrt(n)) if n > 1 else None,
        "n": n,
    }
