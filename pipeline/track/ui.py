"""MLflow's pages of one run or of several, on 127.0.0.1 alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.config import load
from pipeline.errors import PipelineError, UsageError
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.stop import Stop, stop_on_signals
from pipeline.track.stage import Tracker
from pipeline.track.view import MODE, VIEW

POLL = 0.2  # seconds
REFRESH = 5.0  # seconds between two looks for news of runs that are shown together
TOGETHER = "runs"  # experiment of several runs
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no processes that nothing here needs


def ui(runs: Sequence[RunDirectory], port: int) -> None:
    """Serve MLflow's pages until they are interrupted.

    One run is served from its own database, several from a copy in one experiment, which follows them.

    Raises:
        UsageError: the port is in use.
        PipelineError: the server ended by itself.
    """
    _check_port(port)
    with stop_on_signals() as stop, tempfile.TemporaryDirectory(prefix="sbiflow-ui-") as folder:
        if len(runs) == 1:
            trackers = [_own(runs[0])]
            root = runs[0].path.resolve() / "artefacts"
        else:
            uri = f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}"
            trackers = [Tracker(run, uri, TOGETHER) for run in runs]
            root = Path(folder) / "artefacts"
            with stop.at_once("ui"):
                for tracker in trackers:
                    _fill(tracker)
        _serve(trackers, root, port, stop, follows=len(runs) > 1)


def _own(run: RunDirectory) -> Tracker:
    """Return what tracks a run in its own database, which is made if there is none or it is damaged."""
    from evaluation.tracking import database

    tracker = Tracker(run, run.tracking_uri, load(run).track.experiment or load(run).name)
    if not run.database.exists():
        log(f"ui: {run.path} is not in MLflow yet: it is written from the journal now")
    if not run.database.exists() or database.problem(run.database) or _behind(run):
        _fill(tracker)
    return tracker


def _behind(run: RunDirectory) -> bool:
    """Return whether the journal has lines that no process is about to write."""
    try:
        later = run.journal.stat().st_mtime > run.database.stat().st_mtime
    except OSError:
        return False
    return later and not run.in_use()


def _fill(tracker: Tracker) -> None:
    """Write a run as it is now; what is damaged or empty is said, and the others are shown."""
    run = tracker.run
    if not run.journal.exists():
        log(f"ui: {run.path} has no journal: nothing was done in it yet")
    tracker.write(running=run.in_use())


def _serve(
    trackers: Sequence[Tracker], root: Path, port: int, stop: Stop, *, follows: bool
) -> None:
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", trackers[0].uri, "--default-artifact-root", root.as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *address, *store]
    lengths = [_length(tracker.run) for tracker in trackers]
    shown, looked = False, time.monotonic()
    # The server starts children of its own: a session makes it possible to end them all.
    with subprocess.Popen(command, start_new_session=True, env={**LEAN, **os.environ}) as server:
        try:
            while server.poll() is None and not stop.requested:
                time.sleep(POLL)
                if not shown and _answers(port):
                    shown = True
                    log(f"ui: {_page(trackers[0], port)}  (Ctrl-C ends it)")
                if follows and time.monotonic() - looked > REFRESH:
                    lengths, looked = _refresh(trackers, lengths), time.monotonic()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
    if not stop.requested:
        raise PipelineError(f"the MLflow UI ended with code {server.returncode}")


def _refresh(trackers: Sequence[Tracker], lengths: list[int]) -> list[int]:
    """Write the runs whose journal has grown; return the lengths of all."""
    now = [_length(tracker.run) for tracker in trackers]
    for tracker, before, after in zip(trackers, lengths, now, strict=True):
        if before != after:
            with suppress(PipelineError, OSError):  # the next look tries again
                tracker.write(running=tracker.run.in_use())
    return now


def _length(run: RunDirectory) -> int:
    try:
        return run.journal.stat().st_size
    except OSError:
        return 0


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; take another one") from error


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _page(tracker: Tracker, port: int) -> str:
    """Return the address of the experiment, with the columns and charts of ours."""
    found = tracker.experiment_id()
    place = f"/#/experiments/{found}/runs?{MODE}&viewStateShareKey={VIEW}" if found else ""
    return f"http://127.0.0.1:{port}{place}"
