"""The way into MLflow: finished facts are brought into any tracking server, as often as one likes.

A record is everything that one MLflow run should hold. `publish` looks at what the server has and adds
what is missing, so that a repeat adds nothing, and a run that was cut short is completed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

KEY_LENGTH, VALUE_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 250, 6000, 5000, 36  # MLflow's limits
METRICS, PARAMS, TAGS = 1000, 100, 100  # of one batch
KEY_TAG, FILES_TAG = "sbiflow.key", "sbiflow.artefacts"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI shows first
Item = TypeVar("Item")


class TrackingError(RuntimeError):
    """MLflow refused; the message says what."""


@dataclass(frozen=True)
class Point:
    """A metric's value at a step; `time` in milliseconds since 1970."""

    name: str
    value: float
    step: int
    time: int


@dataclass(frozen=True)
class Record:
    """What one MLflow run holds.

    Attributes:
        key: identifies the run on every server.
        parameters: fixed once they are there.
        artefacts: files, each under the folder where it is kept ("" is the top).
        data: what it was made from: name, digest and place of each data set.
        start, end: milliseconds since 1970; end is None while it goes on.
    """

    key: str
    name: str
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    points: Sequence[Point]
    artefacts: Sequence[tuple[Path, str]]
    data: Sequence[tuple[str, str, str]]
    start: int
    end: int | None = None


@dataclass
class Added:
    """How much a `publish` added."""

    runs: list[str] = field(default_factory=list)  # ids of all runs, new or old
    created: int = 0
    points: int = 0
    parameters: int = 0
    tags: int = 0
    artefacts: int = 0


def publish(
    records: Iterable[Record], uri: str, experiment: str, artefacts: Path | None = None
) -> Added:
    """Bring records into the experiment of an MLflow server.

    Args:
        uri: "sqlite:////absolute/path.db", "http://..." or another absolute address.
        experiment: its name; made if it is not there.
        artefacts: where a new experiment keeps its files; none: the server decides.

    Raises:
        ValueError: the address is relative or a plain folder.
        TrackingError: MLflow cannot be reached or refused.
    """
    check_uri(uri)
    added = Added()
    try:
        client = MlflowClient(tracking_uri=uri)
        where = _experiment(client, experiment, artefacts)
        for record in records:
            _publish(client, where, record, added)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {uri}: {error}") from error
    return added


def check_uri(uri: str) -> None:
    """Refuse an address that depends on the working directory, and MLflow's former file store."""
    scheme, colon, rest = uri.partition(":")
    valid = "valid: sqlite:////absolute/path.db, http://127.0.0.1:5000, ..."
    if not colon or "/" in scheme or scheme == "file":
        raise ValueError(
            f"tracking address {uri!r} is a folder, which MLflow no longer takes; {valid}"
        )
    if scheme == "sqlite" and not rest.startswith("////"):
        raise ValueError(f"tracking address {uri!r} is relative to the working directory; {valid}")


def _experiment(client: MlflowClient, name: str, artefacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = artefacts.resolve().as_uri() if artefacts else None
    return str(client.create_experiment(name, artifact_location=location, tags=KIND))


def _publish(client: MlflowClient, experiment: str, record: Record, added: Added) -> None:
    run = _find(client, experiment, record)
    if run is None:
        run = client.create_run(experiment, record.start, {KEY_TAG: record.key}, record.name)
        added.created += 1
    run_id = str(run.info.run_id)
    added.runs.append(run_id)

    has = run.data.params
    parameters = [
        Param(key[:KEY_LENGTH], str(value)[:VALUE_LENGTH])
        for key, value in record.parameters.items()
        if key[:KEY_LENGTH] not in has
    ]
    tags = [
        RunTag(key, value[:TAG_LENGTH])
        for key, value in record.tags.items()
        if run.data.tags.get(key) != value[:TAG_LENGTH]
    ]
    points = _missing(client, run_id, record.points, set(run.data.metrics))
    for batch in _batches(parameters, PARAMS):
        client.log_batch(run_id, params=batch)
    for batch in _batches(tags, TAGS):
        client.log_batch(run_id, tags=batch)
    for batch in _batches(points, METRICS):
        client.log_batch(run_id, metrics=batch)
    added.parameters += len(parameters)
    added.tags += len(tags)
    added.points += len(points)
    added.artefacts += _upload(client, run_id, record.artefacts, run.data.tags)
    _lineage(client, run, record.data)
    if record.end is not None and run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED", record.end)


def _find(client: MlflowClient, experiment: str, record: Record) -> Any:
    runs = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{record.key}'", max_results=1)
    return runs[0] if runs else None


def _missing(
    client: MlflowClient, run_id: str, points: Sequence[Point], known: set[str]
) -> list[Metric]:
    """Return the points whose name, step and value the server does not have."""
    has = {
        (name, metric.step, metric.value)
        for name in known & {point.name for point in points}
        for metric in client.get_metric_history(run_id, name)
    }
    return [
        Metric(point.name, point.value, point.time, point.step)
        for point in points
        if (point.name, point.step, point.value) not in has
    ]


def _upload(
    client: MlflowClient, run_id: str, files: Sequence[tuple[Path, str]], tags: Mapping[str, str]
) -> int:
    """Upload the files whose content the server does not have; a tag keeps their hashes."""
    known: dict[str, str] = json.loads(tags.get(FILES_TAG, "{}"))
    count = 0
    for file, folder in files:
        name = f"{folder}/{file.name}" if folder else file.name
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        if known.get(name) == digest:
            continue
        client.log_artifact(run_id, str(file), folder or None)
        known[name] = digest
        client.set_tag(run_id, FILES_TAG, json.dumps(known, sort_keys=True))
        count += 1
    return count


def _lineage(client: MlflowClient, run: Any, data: Sequence[tuple[str, str, str]]) -> None:
    """Name the data sets that the run was made from."""
    has = {used.dataset.digest for used in run.inputs.dataset_inputs} if run.inputs else set()
    new = [
        DatasetInput(Dataset(name, digest[:DIGEST_LENGTH], "local", json.dumps({"uri": place})))
        for name, digest, place in data
        if digest[:DIGEST_LENGTH] not in has
    ]
    if new:
        client.log_inputs(run.info.run_id, new)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
