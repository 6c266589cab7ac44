"""A study in MLflow: a parent run, and below it a run for each case, with the axes as tags and parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, flat
from pipeline.errors import PipelineError, UsageError
from pipeline.progress import log
from pipeline.results import Results
from pipeline.run import RunDirectory
from pipeline.study.case import CASES, StudyCase
from pipeline.track.view import view_tags

if TYPE_CHECKING:
    from evaluation.tracking.record import Point, Record

AXIS = "sbiflow.axis."
LOSSES = ("train", "validation")


def sync(result: Mapping[str, Any], folder: Path, cases: Sequence[StudyCase]) -> None:
    """Write a study to MLflow; a repeat adds nothing twice.

    Arguments:
        result: the content of `study.json`.
        folder: of the study.
        cases: all of it; `track` of the first says where to.

    Raises:
        UsageError: the address is relative, or a plain folder.
        PipelineError: MLflow cannot be reached or refused.
    """
    from evaluation.tracking import database
    from evaluation.tracking.local import LocalDatabase
    from evaluation.tracking.publisher import Publisher
    from evaluation.tracking.record import TrackingError

    own, settings = RunDirectory(folder), cases[0].config.track
    uri, experiment = settings.uri or own.tracking_uri, settings.experiment or result["name"]
    artefacts = own.path.resolve() / "artefacts"
    rows = {row["name"]: row for row in result["cases"] if row["state"] == "complete"}
    known = {_key(result, name, key) for name, key in _trainings(folder)}
    below = (case for case in cases if case.name in rows)
    children = [_child(result, case.config, rows[case.name], folder) for case in below]
    records = [_parent(result, folder), *children]
    try:
        with database.locked(own.database):
            if uri == own.tracking_uri:
                place = LocalDatabase(own.database, experiment, artefacts, _say)
                publisher, _ = place.open(records, known)
            else:
                local = artefacts if uri.startswith("sqlite:") else None
                publisher = Publisher(uri, experiment, local)
            publisher.publish(records)
            publisher.tag_experiment(view_tags())
    except ValueError as error:
        raise UsageError(str(error)) from error
    except TrackingError as error:
        raise PipelineError(str(error)) from error


def _trainings(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield case and key of every training that the folder has."""
    for path in folder.glob(f"{CASES}/*/trainings/*/"):
        yield path.parent.parent.name, path.name


def _key(result: Mapping[str, Any], case: str, training: str) -> str:
    return f"study/{result['identity']}/{case}/{training}"


def _parent(result: Mapping[str, Any], folder: Path) -> Record:
    from evaluation.tracking.record import Record

    files = [folder / name for name in ("study.yml", "study.json", "study.html")]
    tags = {AXIS + axis: ", ".join(names) for axis, names in result["axes"].items()}
    complete = all(case["state"] == "complete" for case in result["cases"])
    return Record(
        key=f"study/{result['identity']}",
        name=str(result["name"]),
        parameters={},
        tags={**tags, "mlflow.source.name": "sbiflow", "sbiflow.kind": "study"},
        points=[],
        artefacts=[(file, "") for file in files if file.exists()],
        data=[],
        start=int(result["started"]),
        end=int(result["ended"]) if complete else None,
        status="FINISHED" if complete else "RUNNING",
    )


def _child(
    result: Mapping[str, Any], config: Config, row: Mapping[str, Any], folder: Path
) -> Record:
    from evaluation.tracking.record import Record

    parameters = {name: _text(value) for name, value in flat(config.plain()).items()}
    parameters |= {f"axis.{axis}": name for axis, name in row["axes"].items()}
    tags = {AXIS + axis: name for axis, name in row["axes"].items()}
    tags |= {"sbiflow.case": row["name"], "mlflow.source.name": "sbiflow"}
    tags["sbiflow.kind"] = "training"
    tags |= {f"sbiflow.{name}": row[name] for name in ("training", "store_digest", "weights")}
    start = int(result["started"])
    return Record(
        key=_key(result, row["name"], row["training"]),
        name=row["name"],
        parameters=parameters,
        tags=tags,
        points=list(_points(row, folder, start)),
        artefacts=[],
        data=[],
        start=start,
        end=int(result["ended"]),
        parent=f"study/{result['identity']}",
    )


def _points(row: Mapping[str, Any], folder: Path, time: int) -> Iterator[Point]:
    """Yield the losses by optimiser step, and the metrics by sampling steps."""
    from evaluation.tracking.record import Point

    for step in Results(RunDirectory(folder / CASES / row["name"]), row["training"]).curves() or []:
        for name in LOSSES:
            if (value := step.get(name)) is not None and math.isfinite(value):
                yield Point(f"loss/{name}", float(value), int(step["step"]), time)
    for one in row["measured"]:
        for name, value in one["metrics"].items():
            if math.isfinite(value):
                yield Point(f"quality/{name}", float(value), int(one["sampling_steps"] or 0), time)
    yield Point("training_seconds", float(row["seconds"]), 0, time)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _say(message: str) -> None:
    log(f"tracking: {message}")
