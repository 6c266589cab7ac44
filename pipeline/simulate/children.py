"""Ends the processes that a simulation leaves behind.

A worker is the reaper of its descendants (Linux' PR_SET_CHILD_SUBREAPER): every process that a simulator starts
remains its descendant, daemons included. Those that are left after a simulation are killed. Exceptions are
processes that existed before the first simulation, and those that libraries keep for later calls: the workers of
pools and the helpers of multiprocessing and joblib.

When the worker itself dies its guard, a separate small process, kills all processes that have the worker's mark in
their environment: `guard.py`.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IGNORED = signal.SIGINT, signal.SIGUSR1  # the driver decides when to stop
MARK = "SBIFLOW_WORKER"  # environment variable that all descendants of a worker have
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux' prctl
PATIENCE = 5.0  # seconds until killed processes must have ended
PAUSE = 0.002  # seconds between two checks
GUARD = str(Path(__file__).with_name("guard.py"))
HELPERS = {
    "multiprocessing.resource_tracker": ("_resource_tracker", "_pid"),
    "multiprocessing.forkserver": ("_forkserver", "_forkserver_pid"),
    "joblib.externals.loky.backend.resource_tracker": ("_resource_tracker", "_pid"),
    "loky.backend.resource_tracker": ("_resource_tracker", "_pid"),
}


def marked() -> dict[str, str]:
    """Return the variable that marks a worker and its descendants."""
    return {MARK: secrets.token_hex(16)}


def prctl(option: int, value: int) -> None:
    """Set a property of this process where the system is Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies, even if it is stuck in C code."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def stop_signals_pending() -> Iterator[None]:
    """Start processes within for which stop signals wait until they call `ignore_stop_signals`.

    Without it a signal that arrives while such a process imports ends it, with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Ignore the signals that a batch system sends to every process: the driver decides when to stop.

    A handler that does nothing is, unlike SIG_IGN, not inherited by the programs that a simulator starts. SIGTERM
    must not become a SystemExit within a simulation, which would look like its failure.
    """
    for number in IGNORED:
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)


class Children:
    """The processes below this one; made before the first simulation, in a process that is marked."""

    def __init__(self) -> None:
        self._kept: frozenset[int] = frozenset()
        self._marked = MARK in os.environ  # else this is no worker process
        if self._marked:
            _start_guard()
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self._kept = frozenset(_children(os.getpid()))

    def end(self) -> None:
        """Kill the descendants that are left; takes a microsecond where there are no children."""
        if not self._marked or not _any_child():
            return
        deadline = time.monotonic() + PATIENCE
        while left := list(_below(os.getpid(), self._kept | _kept_by_libraries())):
            for process in left:
                _kill(process)
            for process in left:
                with suppress(ChildProcessError):
                    os.waitpid(process, os.WNOHANG)
            if time.monotonic() > deadline:
                return
            time.sleep(PAUSE)


def _any_child() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _kept_by_libraries() -> set[int]:
    """Return the processes that libraries keep for later calls."""
    kept = set()
    for name, (holder, attribute) in HELPERS.items():
        if (module := sys.modules.get(name)) is not None:
            kept.add(getattr(getattr(module, holder, None), attribute, None) or 0)
    if (library := sys.modules.get("multiprocessing.process")) is not None:
        kept |= {child.pid for child in library.active_children() if "PoolWorker" in child.name}
    for thread in threading.enumerate():  # that of an executor knows its processes
        kept |= set(getattr(thread, "processes", None) or ())
    return kept


def _below(process: int, kept: set[int] | frozenset[int]) -> Iterator[int]:
    """Yield all descendants, except those kept and their descendants."""
    for child in _children(process):
        if child not in kept:
            yield child
            yield from _below(child, kept)


def _children(process: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:
        return found
    for thread in threads:
        with suppress(OSError), open(f"/proc/{process}/task/{thread}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def _kill(process: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)


def _start_guard() -> None:
    """Start this process' guard, detached: it must not be among the children that are killed."""
    mark = f"{MARK}={os.environ[MARK]}"
    subprocess.run(
        [sys.executable, "-I", "-S", GUARD, str(os.getpid()), mark],
        env={name: value for name, value in os.environ.items() if name != MARK},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
