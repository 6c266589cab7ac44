"""Whole writes, the lock of a run, durations, and stop requests."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from pipeline.errors import LockedError, Stopped
from pipeline.files import write_whole
from pipeline.progress import duration
from pipeline.run import RunDirectory
from pipeline.stop import stop_on_signals


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_driver_is_refused_by_name(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.lock(), pytest.raises(LockedError, match=f"process {os.getpid()} on "), run.lock():
        pass
    with run.lock():
        pass


def test_a_driver_refused_before_the_other_wrote_its_name_waits_for_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with open(tmp_path / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Timer(0.2, (tmp_path / "lock").write_text, ["process 7 on elsewhere"])
        writer.start()
        with pytest.raises(LockedError, match="in use by process 7 on elsewhere"), run.lock():
            pass
        writer.join()


def test_a_signal_becomes_a_request() -> None:
    with stop_on_signals() as stop:
        stop.check("train")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested
        with pytest.raises(Stopped, match="train stopped by SIGUSR1"):
            stop.check("train")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2s"), (42, "42s"), (185, "3m05s"), (7440, "2h04m"), (float("inf"), "unknown")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
