"""The guard of a simulation worker: `python guard.py PID MARK=VALUE`; it uses the standard library alone.

It waits until a process has ended, for whatever reason, and then kills all processes that have the mark in their
environment.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator

SECONDS = 10.0  # until all of them must have ended
PAUSE = 0.05  # seconds between two searches
QUIET = 3  # searches without a find after which it ends


def guard(process: int, mark: bytes) -> None:
    """Detach from the process that started this one, wait for the end of `process`, and kill what has the mark."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _await_end(process)
    deadline, quiet = time.monotonic() + SECONDS, 0
    while quiet < QUIET and time.monotonic() < deadline:
        found = [other for other in _carriers(mark) if other != process]
        for other in found:
            try:
                os.kill(other, signal.SIGKILL)
            except OSError:
                continue
        quiet = 0 if found else quiet + 1
        time.sleep(PAUSE)


def _await_end(process: int) -> None:
    try:
        handle = os.pidfd_open(process)
    except (OSError, AttributeError):  # it has ended, or the kernel is too old
        while os.path.exists(f"/proc/{process}"):
            time.sleep(1.0)
    else:
        select.select([handle], [], [])


def _carriers(mark: bytes) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if mark in variables:
            yield int(entry)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2].encode())
