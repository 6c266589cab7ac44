"""Whole writes, the lock of a run, durations, and stop requests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline.errors import LockedError, Stopped
from pipeline.progress import duration
from pipeline.run import Run, write_whole
from pipeline.stop import stop_on_signals


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_driver_is_refused_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.lock(), pytest.raises(LockedError, match=f"process {os.getpid()} on "), run.lock():
        pass
    with run.lock():
        pass


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
