"""Records written to an MLflow server: what it has is asked for once, and only what it lacks is sent.

An upload that was interrupted is completed by a repeat, and a publisher that stays alive sends what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from evaluation.tracking import database
from evaluation.tracking.record import (
    Added,
    Data,
    Known,
    Point,
    Record,
    TrackingError,
    check_uri,
)

KEY_LENGTH, VALUE_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 250, 6000, 5000, 36  # MLflow's limits
METRICS, PARAMS, TAGS = 1000, 100, 100  # of one batch
KEY_TAG, FILES_TAG, PARENT_TAG = "sbiflow.key", "sbiflow.artefacts", "mlflow.parentRunId"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI shows first
Item = TypeVar("Item")


class Publisher:
    """Writes records to one experiment of an MLflow server.

    Arguments:
        uri: "sqlite:////absolute/path.db", "http://..." or another absolute address.
        experiment: its name; it is made if it does not exist.
        artefacts: where a new experiment keeps its files; None: the server decides.

    Raises:
        ValueError: the address is relative or a plain folder.
        TrackingError: MLflow cannot be reached or refused.
    """

    def __init__(self, uri: str, experiment: str, artefacts: Path | None = None) -> None:
        check_uri(uri)
        self.uri = uri
        with refusals(uri):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.experiment = _experiment(self.client, experiment, artefacts)
        self._known: dict[str, Known] = {}

    def publish(self, records: Iterable[Record]) -> Added:
        """Send what the server lacks; parents come before their children.

        Raises:
            TrackingError: MLflow cannot be reached or refused.
        """
        added = Added()
        with refusals(self.uri):
            for record in records:
                self._publish(record, added)
        return added

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment that it does not have yet."""
        with refusals(self.uri):
            has = self.client.get_experiment(self.experiment).tags
            for name, value in tags.items():
                if has.get(name) != value:
                    self.client.set_experiment_tag(self.experiment, name, value)

    def _publish(self, record: Record, added: Added) -> None:
        known = self._known.get(record.key) or self._find(record, added)
        self._known[record.key] = known
        added.runs.append(known.run_id)
        added.parameters += self._parameters(known, record)
        added.tags += self._tags(known, record)
        _lineage(self.client, known, record.data)
        if record.model is not None:
            from evaluation.tracking import model

            model.log(self.client, self.experiment, known, record.model)
        added.points += self._points(known, record.points)
        if record.model is not None and record.model.register:
            model.register(self.client, known, record.model, record.points)
        added.artefacts += _upload(self.client, known, record.artefacts)
        if record.status != known.status:
            self._status(known, record)

    def _find(self, record: Record, added: Added) -> Known:
        """Return what the server has of a record's run, which is made if it does not exist."""
        where = f"tags.`{KEY_TAG}` = '{record.key}'"
        found = self.client.search_runs([self.experiment], where, max_results=1)
        run = found[0] if found else None
        if run is None:
            tags = {KEY_TAG: record.key}
            if record.parent:
                tags[PARENT_TAG] = self._known[record.parent].run_id
            run = self.client.create_run(self.experiment, record.start, tags, record.name)
            added.created += 1
        names = {point.name for point in record.points} & set(run.data.metrics)
        history = [p for n in names for p in self.client.get_metric_history(run.info.run_id, n)]
        data = run.inputs.dataset_inputs if run.inputs else []
        return Known(
            run_id=str(run.info.run_id),
            artifacts=str(run.info.artifact_uri),
            status=str(run.info.status),
            tags=dict(run.data.tags),
            parameters=set(run.data.params),
            points={(p.key, p.step, p.value) for p in history},
            data={used.dataset.digest for used in data},
        )

    def _parameters(self, known: Known, record: Record) -> int:
        new = [
            Param(key[:KEY_LENGTH], str(value)[:VALUE_LENGTH])
            for key, value in record.parameters.items()
            if key[:KEY_LENGTH] not in known.parameters
        ]
        for batch in _batches(new, PARAMS):
            self.client.log_batch(known.run_id, params=batch)
        known.parameters |= {param.key for param in new}
        return len(new)

    def _tags(self, known: Known, record: Record) -> int:
        wanted = {key: value[:TAG_LENGTH] for key, value in record.tags.items()}
        new = [RunTag(k, v) for k, v in wanted.items() if known.tags.get(k) != v]
        for batch in _batches(new, TAGS):
            self.client.log_batch(known.run_id, tags=batch)
        known.tags |= wanted
        return len(new)

    def _points(self, known: Known, points: Sequence[Point]) -> int:
        new = [p for p in points if (p.name, p.step, p.value) not in known.points]
        for batch in _batches([_metric(point, known) for point in new], METRICS):
            self.client.log_batch(known.run_id, metrics=batch)
        known.points |= {(p.name, p.step, p.value) for p in new}
        return len(new)

    def _status(self, known: Known, record: Record) -> None:
        if record.status == "RUNNING":
            self.client.update_run(known.run_id, status="RUNNING")
        else:
            self.client.set_terminated(known.run_id, record.status, record.end)
        known.status = record.status


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into a `TrackingError` of one line."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's and Alembic's have nothing in common
        raise TrackingError(f"MLflow at {uri}: {reason(error)}") from error


def experiment_id(uri: str, name: str) -> str:
    """Return the number of an experiment, "" where there is none."""
    with refusals(uri):
        found = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    return "" if found is None else str(found.experiment_id)


def reason(error: Exception) -> str:
    """Return why MLflow failed, in one line."""
    text = database.outside(error) or str(error) or type(error).__name__
    return text.strip().splitlines()[0]


def _experiment(client: MlflowClient, name: str, artefacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = artefacts.resolve().as_uri() if artefacts else None
        return str(client.create_experiment(name, artifact_location=location, tags=KIND))
    for key, value in KIND.items():  # of earlier versions
        if key not in found.tags:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def _metric(point: Point, known: Known) -> Metric:
    if point.data is None or not known.model:
        return Metric(point.name, point.value, point.time, point.step)
    digest = point.data.digest[:DIGEST_LENGTH]
    place = known.model, point.data.name, digest, known.run_id
    return Metric(point.name, point.value, point.time, point.step, *place)


def _upload(client: MlflowClient, known: Known, files: Sequence[tuple[Path, str]]) -> int:
    """Upload the files whose content the server does not have; a tag keeps their hashes."""
    uploaded = _uploaded(known.tags)
    count = 0
    for file, folder in files:
        name = f"{folder}/{file.name}" if folder else file.name
        digest = _digest(file)
        if uploaded.get(name) == digest and _there(known.artifacts, name, digest):
            continue
        client.log_artifact(known.run_id, str(file), folder or None)
        uploaded[name] = digest
        count += 1
    if count:
        known.tags[FILES_TAG] = json.dumps(uploaded, sort_keys=True)
        client.set_tag(known.run_id, FILES_TAG, known.tags[FILES_TAG])
    return count


def _uploaded(tags: Mapping[str, str]) -> dict[str, Any]:
    try:
        known = json.loads(tags.get(FILES_TAG, "{}"))
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _there(address: str, name: str, digest: str) -> bool:
    """Return whether a file that was uploaded is still what it was, as far as that can be seen from here."""
    url = urlparse(address)
    if url.scheme != "file":
        return True
    try:
        return _digest(Path(unquote(url.path), name)) == digest
    except OSError:
        return False


def _lineage(client: MlflowClient, known: Known, data: Sequence[Data]) -> None:
    """Name the data sets that the run was made from."""
    new = [
        DatasetInput(
            Dataset(one.name, one.digest[:DIGEST_LENGTH], "local", json.dumps({"uri": one.place}))
        )
        for one in data
        if one.digest[:DIGEST_LENGTH] not in known.data
    ]
    if new:
        client.log_inputs(known.run_id, new)
        known.data |= {used.dataset.digest for used in new}


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
