"""MLflow while a command works: one process beside it follows the journal and writes what is new.

The command never waits for MLflow and never fails because of it. At its end it gives the process some seconds
to write the rest. If the command is killed, its end of a pipe closes, and the process writes that too.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from typing import Any

from pipeline import events
from pipeline.config import Config
from pipeline.errors import PipelineError, Stopped, UsageError
from pipeline.files import write_whole
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.track.outcome import COMPLETE, ENDED
from pipeline.track.stage import Tracker

INTERVAL = 4.0  # seconds between two writes
SHARE = 3.0  # a write that took long is followed by a pause that is longer by this
LONGEST = 60.0  # seconds between two writes, at most
POLL = 0.5  # seconds
LAST = 120.0  # seconds that a command waits for the last write
HURRY = 20.0  # the same where the command was told to stop
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@contextmanager
def tracked(config: Config, run: RunDirectory) -> Iterator[None]:
    """Have MLflow follow the journal while a command works, and note in the journal how the command ends.

    Nothing happens where the command finds nothing to do.
    """
    before, refused, patience = _length(run), False, LAST
    follower = Follower(run, config)
    try:
        yield
    except BaseException as error:
        refused = isinstance(error, UsageError) and not before  # a new run, which will be removed
        patience = LAST if not isinstance(error, (Stopped, KeyboardInterrupt)) else HURRY
        if _length(run) > before and run.config.exists():
            with suppress(PipelineError, OSError):
                _record_end(run, error)
        raise
    finally:
        work = _length(run) > before and not refused
        if work:
            _keep_environment(run)
        follower.end(work, patience)


def _length(run: RunDirectory) -> int:
    try:
        return run.journal.stat().st_size
    except OSError:
        return 0


def _keep_environment(run: RunDirectory) -> None:
    """Write the versions of all packages, as a list of constraints, where they are others than before."""
    found = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    path, text = run.environment, "\n".join(found) + "\n"
    with suppress(OSError, PipelineError):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)


def _record_end(run: RunDirectory, error: BaseException) -> None:
    """Tell in the journal which part did not come to its end, and why."""
    told = [e for e in events.read(run).events if e.get("event") in COMPLETE | {"start", ENDED}]
    last = told[-1] if told else {}
    part: dict[str, Any] = {}
    if last.get("event") == "start":
        part = {key: last[key] for key in ("training", "abc") if key in last}
    stage = last.get("stage", "run") if last.get("event") == "start" else "run"
    kind = "stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed"
    text = str(error).strip() or type(error).__name__
    reason = text.splitlines()[0] if isinstance(error, PipelineError) else repr(error)
    events.recorder(run, stage)({"event": ENDED, "outcome": kind, "reason": reason, **part})


@dataclass
class Follower:
    """The process beside a command; it is started when the journal grows.

    Arguments:
        run: the run directory.
        config: says whether and where to.
    """

    run: RunDirectory
    config: Config
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        """Watch the journal in a thread."""
        before = _length(self.run)
        self._thread = threading.Thread(target=self._watch, args=(before,), daemon=True)
        if self.config.track.live:
            self._thread.start()

    def _watch(self, before: int) -> None:
        while not self._over.wait(POLL):
            if _length(self.run) > before:
                self._start()
                break

    def _start(self) -> None:
        track = self.config.track
        uri, name = track.uri or self.run.tracking_uri, track.experiment or self.config.name
        command = [sys.executable, "-m", "pipeline", "track", "follow", "-o", str(self.run.path)]
        command += ["--uri", uri, "--experiment", name]
        environment = {**REQUESTS, **os.environ}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, env=environment
            )
        except OSError as error:
            _warn(self.run, str(error))

    def end(self, work: bool, patience: float) -> None:
        """Let it write the rest, if there is any, and wait for that so many seconds."""
        if not self.config.track.live:
            return
        self._over.set()
        self._thread.join()
        if work and self._process is None:
            self._start()
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if work and process.stdin:
                process.stdin.write(b"end\n")
                process.stdin.close()
        if not work:
            process.kill()
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:  # it goes on by itself
            code = 0
        if work and code not in (0, 1):  # it has said itself why it could not write
            _warn(self.run, "the last write did not succeed")


def follow(run: RunDirectory, uri: str, experiment: str) -> bool:
    """Write what is new in the journal until standard input ends; return whether the last write succeeded."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the command decides when to end
    os.nice(5)  # what works comes first
    import evaluation.tracking.local  # noqa: F401  (MLflow, while the command imports what it needs)

    tracker, warned, seen, pause = Tracker(run, uri, experiment), False, _length(run), 0.0
    over = False
    while not over:
        over = _wait(run, seen, pause)
        if over and _length(run) == 0:
            return True
        began, seen = time.monotonic(), _length(run)
        try:
            tracker.write(running=not over, whole=over)
            warned = False
        except (PipelineError, OSError) as error:
            if not warned:
                _warn(run, str(error))
            warned = True
        pause = min(max(INTERVAL, SHARE * (time.monotonic() - began)), LONGEST)
    return not warned


def _wait(run: RunDirectory, seen: int, pause: float) -> bool:
    """Wait for a pause and then for the journal to grow; return whether the command is over, at once."""
    until = time.monotonic() + pause
    while time.monotonic() < until or _length(run) == seen:
        ready, _, _ = select.select([sys.stdin], [], [], POLL)
        if ready:
            return True
    return False


def _warn(run: RunDirectory, why: str) -> None:
    log(
        f"tracking: {why}; the work goes on, and `sbiflow track sync -o {run.path}` writes what is missing"
    )
