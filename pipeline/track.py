"""Tracking: what the run directory holds, told to MLflow.

Tracking live is this very replay at the end of a stage, so a run that is brought in later, on
another machine, gives the same numbers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import read
from pipeline.errors import PipelineError, UsageError
from pipeline.progress import say
from pipeline.run import Run
from pipeline.stop import stop_on_signals

if TYPE_CHECKING:
    from evaluation.tracking import Added

POLL = 0.2  # seconds


def sync(run: Run, uri: str, experiment: str) -> Added:
    """Bring the run into the MLflow server at `uri`; a repeat adds nothing twice.

    Raises:
        UsageError: the address is relative, or a plain folder.
        PipelineError: MLflow cannot be reached or refused.
    """
    from evaluation import tracking
    from pipeline.reporting.history import History

    own = run.path.resolve() / "artefacts" if uri.startswith("sqlite:") else None
    with tempfile.TemporaryDirectory() as folder:
        try:
            records = list(History(run, Path(folder)).records())
            return tracking.publish(records, uri, experiment, own)
        except ValueError as error:
            raise UsageError(str(error)) from error
        except tracking.TrackingError as error:
            raise PipelineError(str(error)) from error


def ui(run: Run, port: int) -> None:
    """Serve the MLflow UI of this run's own database on 127.0.0.1 until it is interrupted."""
    if not (run.path / "mlflow.db").exists():
        sync(run, run.tracking_uri, str(read(run.config)["name"]))
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", run.tracking_uri]
    store += ["--default-artifact-root", (run.path.resolve() / "artefacts").as_uri()]
    say(f"ui: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", *address, *store]
    # The server starts children of its own: a session makes it possible to end them all.
    with stop_on_signals() as stop, subprocess.Popen(command, start_new_session=True) as server:
        try:
            while server.poll() is None and not stop.requested:
                time.sleep(POLL)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    if not stop.requested:
        raise PipelineError(
            f"the MLflow UI ended with code {server.returncode}; is port {port} in use?"
        )
