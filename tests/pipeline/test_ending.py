"""How commands end: one line, an exit code, nothing that a terminal would obey."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.text import shown
from pipeline.ending import ending
from pipeline.errors import PipelineError, Stopped, UsageError
from pipeline.progress import log
from pipeline.stop import stop_on_signals


def leave(error: BaseException) -> int:
    with pytest.raises(SystemExit) as left, ending():
        raise error
    return int(str(left.value.code))


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a/report.html")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no such\x1b[2J name"), 2, "no such\\x1b[2J name"),
        (PipelineError("it failed"), 1, "it failed"),
        (Stopped("stopped"), 4, "stopped"),
        (
            FULL,
            1,
            "/runs/a/report.html: No space left on device; the disk is full: free some space",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied; "),
        (MemoryError(), 1, "the memory is used up"),
        (MemoryError("out of memory on cuda: 9 draws"), 1, "out of memory on cuda: 9 draws"),
        (RecursionError("too deep"), 1, "RecursionError: too deep; this is a fault of sbiflow"),
        (KeyError("a\nb"), 1, "KeyError: "),
        (KeyboardInterrupt(), 4, "interrupted; repeat the same command"),
        (SystemExit(130), 4, "interrupted; repeat the same command"),
    ],
)
def test_every_error_is_one_line_and_a_code(
    capfd: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert leave(error) == code
    said = capfd.readouterr().err
    assert said.startswith(f"sbiflow: {line}")
    assert said.count("\n") == 1


def test_a_fault_of_ours_leaves_its_traceback_in_a_file_or_shows_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(ZeroDivisionError("ours"))
    file = Path(capfd.readouterr().err.split()[-3])
    assert "in leave" in file.read_text()
    file.unlink()
    monkeypatch.setenv("SBIFLOW_TRACEBACK", "1")
    leave(ZeroDivisionError("ours"))
    assert "in leave" in capfd.readouterr().err


def test_what_a_terminal_would_obey_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    text = "a\tb\nü \x1b]0;title\x07\r\x9b31m\x00\u202e\udc80 ±"
    assert shown(text) == "a\tb\nü \\x1b]0;title\\x07\\r\\x9b31m\\x00\\u202e\\udc80 ±"
    log(f"failed: {text}")
    assert not set("\x1b\x07\x9b\r") & set(capfd.readouterr().err)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_work_that_may_be_cut_stops_at_once(sent: signal.Signals) -> None:
    def work() -> None:
        with stop.at_once("report"):
            os.kill(os.getpid(), sent)
            pytest.fail(
                "the signal did not interrupt, or the work began though a stop was requested"
            )

    with stop_on_signals() as stop:
        for _ in range(2):
            with pytest.raises(Stopped, match=f"report stopped by {sent.name}"):
                work()


def test_an_interrupt_that_others_turn_into_an_error_is_still_a_stop() -> None:
    def work() -> None:
        with stop.at_once("sample"):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise AttributeError("partially initialized module") from None

    with stop_on_signals() as stop, pytest.raises(Stopped, match="sample stopped by SIGINT"):
        work()


def test_an_interrupt_that_python_would_only_print_is_still_a_stop(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Removed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        stop_on_signals() as stop,
        pytest.raises(Stopped, match="track stopped by SIGINT"),
        stop.at_once("track"),
    ):
        Removed()
    assert capfd.readouterr().err == ""


def test_output_to_a_full_device_is_an_error_without_a_traceback() -> None:
    code = "from pipeline.ending import ending\nwith ending(): print('x' * 100_000)"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "No space left" in done.stderr
