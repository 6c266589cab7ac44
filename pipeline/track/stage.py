"""Tracking: the contents of a run directory, written to MLflow.

MLflow is written only from the journal and the files of a run: while a command works, by one process beside it
(`follow`), and at any later time by `sync`. Both give the same content.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError, UsageError
from pipeline.progress import log
from pipeline.run import RunDirectory

if TYPE_CHECKING:
    from evaluation.tracking.publisher import Publisher
    from evaluation.tracking.record import Added


@dataclass
class Tracker:
    """Writes one run to one MLflow server, as often as asked; only what is new is sent.

    Arguments:
        run: the run directory.
        uri: absolute address of the server or of a database.
        experiment: name in MLflow; it is made if it does not exist.
    """

    run: RunDirectory
    uri: str
    experiment: str
    _publisher: Publisher | None = field(default=None, repr=False)

    def write(self, running: bool = False, whole: bool = True) -> Added:
        """Bring MLflow up to the journal.

        Arguments:
            running: whether a command works on the run.
            whole: with files, pictures and models.

        Raises:
            UsageError: the address is relative, or a plain folder.
            PipelineError: MLflow cannot be reached or refused.
        """
        from evaluation.tracking import database
        from evaluation.tracking.record import TrackingError

        try:
            with database.locked(self.run.database), tempfile.TemporaryDirectory() as folder:
                return self._write(Path(folder), running, whole)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except TrackingError as error:
            self._publisher = None  # what the server has is asked for anew
            raise PipelineError(str(error)) from error

    def experiment_id(self) -> str:
        """Return the number of the experiment, "" where there is none."""
        from evaluation.tracking.publisher import experiment_id

        return experiment_id(self.uri, self.experiment)

    def _write(self, folder: Path, running: bool, whole: bool) -> Added:
        from evaluation.tracking.local import LocalDatabase
        from evaluation.tracking.publisher import Publisher
        from evaluation.tracking.record import Added
        from pipeline.track.history import History
        from pipeline.track.view import view_tags

        history = History(self.run, folder, running, whole)
        records, added = list(history.records()), Added()
        if self._publisher is None:
            own = self.run.path.resolve() / "artefacts" if self.uri.startswith("sqlite:") else None
            if own and self.uri == self.run.tracking_uri:
                database = LocalDatabase(self.run.database, self.experiment, own, _say)
                self._publisher, added = database.open(records, history.known)
            else:
                self._publisher = Publisher(self.uri, self.experiment, own)
            self._publisher.tag_experiment(view_tags())
        return added if added.created else self._publisher.publish(records)


def sync(run: RunDirectory, uri: str, experiment: str, running: bool | None = None) -> Added:
    """Write a run to an MLflow server; a repeat adds nothing twice.

    The arguments and what is raised are those of `Tracker` and its `write`; `running` is looked up if it is None.
    """
    running = run.in_use() if running is None else running
    return Tracker(run, uri, experiment).write(running)


def _say(message: str) -> None:
    log(f"tracking: {message}")
