"""The MLflow database of a run: made whole, and built again where it says what the run does not know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from evaluation.tracking import database
from evaluation.tracking.publisher import KEY_LENGTH, KEY_TAG, VALUE_LENGTH, Publisher, reason
from evaluation.tracking.record import Added, Record, TrackingError

RUNS = 50_000  # of one search

# An interrupt while a connection is closed is no error of the pool's, which would print its traceback.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class LocalDatabase:
    """The database of a run.

    Arguments:
        path: of its file.
        experiment: name of its experiment.
        artefacts: where files are kept.
        warn: takes the reason why the database is built again.
    """

    path: Path
    experiment: str
    artefacts: Path
    warn: Callable[[str], None]

    def open(self, records: Sequence[Record], known: Set[Any]) -> tuple[Publisher, Added]:
        """Return what writes to a sound database, and what was added for that; call it while `locked`.

        Arguments:
            records: written at once where the database is built.
            known: all numbers and names of the run's history, beyond the records.

        Raises:
            TrackingError: it cannot be used for a reason that is not its own: the disk, another process.
        """
        added = Added()
        if self.path.exists() or self.path.is_symlink():
            why = self.unsound(records, known)
            if why:
                aside = database.set_aside(self.path)
                self.warn(f"{self.path} is built again: {why}; the old one is {aside.name}")
        if not self.path.exists():
            with database.building(self.path) as part:
                added = self._publisher(part).publish(records)
        return self._publisher(self.path), added

    def _publisher(self, path: Path) -> Publisher:
        return Publisher(f"sqlite:///{path}", self.experiment, self.artefacts)

    def unsound(self, records: Sequence[Record], known: Set[Any]) -> str:
        """Return why the database is not reliable, "" if it is."""
        try:
            if why := database.problem(self.path):
                return why
            client = MlflowClient(tracking_uri=f"sqlite:///{self.path}")
            return next(self._differences(client, records, known), "")
        except Exception as error:
            if database.outside(error):
                raise TrackingError(f"MLflow at {self.path}: {reason(error)}") from error
            return f"MLflow cannot read it ({reason(error)})"

    def _differences(
        self, client: MlflowClient, records: Sequence[Record], known: Set[Any]
    ) -> Iterator[str]:
        """Yield what the database holds that is neither in the records nor in the run's history."""
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            return
        wanted = {record.key: record for record in records}
        for run in client.search_runs([found.experiment_id], max_results=RUNS):
            key = run.data.tags.get(KEY_TAG)
            if key is None and "sbiflow.run" not in run.data.tags:
                continue  # not ours
            if key not in wanted:
                if key not in known:
                    yield f"it holds {key!r}, which the run does not know"
                continue
            if not str(run.info.artifact_uri).startswith(self.artefacts.resolve().as_uri()):
                yield "its files lie elsewhere"
            yield from unknown_values(client, run, wanted[key], known)


def unknown_values(
    client: MlflowClient, run: Any, record: Record, known: Set[Any]
) -> Iterator[str]:
    """Yield what one MLflow run holds that is neither in its record nor in the run's history."""
    parameters = {k[:KEY_LENGTH]: str(v)[:VALUE_LENGTH] for k, v in record.parameters.items()}
    for name, value in run.data.params.items():
        if parameters.get(name) != value and not {name, value} <= known:
            yield f"parameter {name} is {value!r}"
    if run.info.start_time != record.start:
        yield f"{record.name} begins at {run.info.start_time}"
    points = {(point.name, point.step, point.value) for point in record.points}
    for name, latest in run.data.metrics.items():
        history = client.get_metric_history(run.info.run_id, name)
        for point in history:
            recorded = {name.rpartition("/")[2], point.step, point.value} <= known
            if (name, point.step, point.value) not in points and not recorded:
                yield f"metric {name} is {point.value} at step {point.step}"
        last = max((point.step for point in history), default=0)
        if latest not in [point.value for point in history if point.step == last]:
            yield f"metric {name} is {latest} at last"
