"""Commands of sbiflow in forked children of a process that has imported everything: milliseconds, not seconds.

The parent never works itself, so it has no threads: a fork is sound. What is dear and not the point is made cheap
in the child: `cheap.py`.
"""

from __future__ import annotations

import os
import re
import resource
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.torture.cheap import cheap

MARK = b"\x00end "  # behind the output of each command
OUTSIDE = 70  # exit code of a child that ended in code of this file
WRITES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.truncate",
    "sqlite3.connect",
    "shutil.rmtree",
)


@dataclass(frozen=True)
class Done:
    """What a command came to.

    `code` is negative where a signal ended it, `escaped` says that an exception was not caught.
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    escaped: bool = False
    hung: bool = False
    seconds: float = 0.0
    events: int = 0

    @property
    def traceback(self) -> bool:
        return self.escaped or bool(re.search(r"^Traceback \(most recent", self.err, re.M))

    @property
    def message(self) -> str:
        """The error message: from its first line on."""
        start = self.err.rfind("sbiflow: ")
        return self.err[start:].strip() if start >= 0 else ""

    @property
    def clear(self) -> bool:
        """Whether it failed as a command should: a message, a code of its own, no traceback."""
        return self.code in (1, 2, 3, 4) and bool(self.message) and not self.traceback

    @property
    def shown(self) -> str:
        return " ".join(("sbiflow", *self.argv[:2]))


@dataclass
class Blow:
    """What happens to a command while it runs.

    Attributes:
        event: number of the change of a file before which a signal is sent; 0: none.
        seconds: after which it is sent; None: never.
        number: the signal.
        victim: "driver", "child" (one of its children) or "group".
        limit: bytes that a file may have.
        pick: which child, in [0, 1).
    """

    event: int = 0
    seconds: float | None = None
    number: int = signal.SIGKILL
    victim: str = "driver"
    limit: int | None = None
    pick: float = 0.0


class Child:
    """A forked child that runs commands one after the other."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        blow: Blow | None = None,
        variables: dict[str, str] | None = None,
        real: Sequence[str] = (),
        job: Callable[[], Any] | None = None,
    ) -> None:
        self.commands = [tuple(map(str, command)) for command in commands]
        self.blow = blow or Blow()
        self.started = time.monotonic()
        self.outputs = {"out": b"", "err": b""}
        out, err = os.pipe(), os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out[1], 1)
                os.dup2(err[1], 2)
                os.closerange(3, 256)
                os.environ |= variables or {}
                self._be(real, job)
            finally:
                os._exit(OUTSIDE)
        os.close(out[1])
        os.close(err[1])
        self.pipes = {"out": out[0], "err": err[0]}
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)

    # --- in the child ----------------------------------------------------------------------------

    def _be(self, real: Sequence[str], job: Callable[[], Any] | None) -> None:
        die_with_parent()
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        cheap(real)
        counter = _watch(self.blow)
        if self.blow.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.blow.limit, resource.RLIM_INFINITY))
        before, code = set(sys.modules), 0
        for argv in self.commands:
            code, escaped = _main(argv)
            sys.stdout.flush()
            sys.stderr.flush()
            mark = MARK + b"%d %d %d\x00" % (code, escaped, counter[0])
            os.write(1, mark)
            os.write(2, mark)
        if job is not None:
            job()
            sys.stdout.flush()
        new = sorted(set(sys.modules) - before)
        os.write(1, MARK + " ".join(new).encode())
        os._exit(code)

    # --- in the parent ---------------------------------------------------------------------------

    def wait(self, timeout: float = 90.0, until: Callable[[], bool] | None = None) -> list[Done]:
        """Return what the commands came to; strike as the blow says, or as soon as `until` holds."""
        deadline, status, struck, hung = self.started + timeout, None, False, False
        with selectors.DefaultSelector() as selector:
            for name, pipe in self.pipes.items():
                os.set_blocking(pipe, False)
                selector.register(pipe, selectors.EVENT_READ, name)
            while status is None:
                self._drain(selector, 0.002 if until or self.blow.seconds is not None else 0.02)
                found, code = os.waitpid(self.pid, os.WNOHANG)
                if found:
                    status = os.waitstatus_to_exitcode(code)
                    break
                age = time.monotonic() - self.started
                due = self.blow.seconds is not None and age >= self.blow.seconds
                if not struck and (due or (until is not None and until())):
                    struck = True
                    self._strike()
                if time.monotonic() > deadline:
                    hung = True
                    os.killpg(self.pid, signal.SIGKILL)
                    deadline += 1e9
            self._end_others(selector)
        for pipe in self.pipes.values():
            os.close(pipe)
        return self._results(status, hung)

    def _drain(self, selector: selectors.BaseSelector, timeout: float) -> bool:
        ready = selector.select(timeout)
        for key, _ in ready:
            with suppress(BlockingIOError):
                if not (part := os.read(key.fd, 1 << 16)):
                    selector.unregister(key.fd)
                self.outputs[key.data] += part
        if not ready and not selector.get_map():
            time.sleep(timeout)
        return bool(ready)

    def _end_others(self, selector: selectors.BaseSelector) -> None:
        """Give the driver's children a moment to notice its end, then end them."""
        limit = time.monotonic() + 10
        while group_lives(self.pid) and time.monotonic() < limit:
            time.sleep(0.005)
        self.left_behind = group_lives(self.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while selector.get_map() and self._drain(selector, 0.05):
            pass

    def _strike(self) -> None:
        with suppress(ProcessLookupError):
            if self.blow.victim == "group":
                os.killpg(self.pid, self.blow.number)
            elif self.blow.victim == "child" and (children := descendants(self.pid)):
                os.kill(children[int(self.blow.pick * len(children))], self.blow.number)
            else:
                os.kill(self.pid, self.blow.number)

    def _results(self, status: int, hung: bool) -> list[Done]:
        outs, errs = (self.outputs[name].split(MARK) for name in ("out", "err"))
        seconds = time.monotonic() - self.started
        results = []
        for number, argv in enumerate(self.commands):
            out = _behind(outs, number)
            err = _behind(errs, number)
            if number + 1 < len(outs) and number + 1 < len(errs):
                code, escaped, events = map(int, outs[number + 1].split(b"\x00")[0].split())
                results.append(Done(argv, code, out, err, bool(escaped), False, seconds, events))
            else:
                results.append(Done(argv, status, out, err, False, hung, seconds))
                break
        self.modules = outs[-1].decode(errors="replace").split() if status >= 0 else []
        return results


def _behind(parts: list[bytes], number: int) -> str:
    text = parts[number] if number < len(parts) else b""
    return (text.partition(b"\x00")[2] if number else text).decode(errors="replace")


def _main(argv: Sequence[str]) -> tuple[int, bool]:
    from pipeline import cli

    sys.argv = ["sbiflow", *argv]
    try:
        cli.main()
    except KeyboardInterrupt:
        return 130, False
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0, False
        print(ended.code, file=sys.stderr)
        return 1, False
    except BaseException:
        traceback.print_exc()
        return 1, True
    return 0, False


def _watch(blow: Blow) -> list[int]:
    """Count what changes files, and strike before the change that the blow names."""
    counter = [0]

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            mode, flags = arguments[1:3]
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)) and not (
                isinstance(mode, str) and set(mode) & set("wax+")
            ):
                return
        elif name not in WRITES:
            return
        counter[0] += 1
        if counter[0] == blow.event:
            os.kill(os.getpid(), blow.number)

    sys.addaudithook(hook)
    return counter


def run(commands: Sequence[Sequence[str]], timeout: float = 90.0, **options: Any) -> list[Done]:
    """Run commands in one child, stopping at none; those behind a hang or a kill are absent."""
    return Child(commands, **options).wait(timeout)


def one(*argv: str, timeout: float = 90.0, **options: Any) -> Done:
    return run([argv], timeout, **options)[0]


# --- processes -------------------------------------------------------------------------------------


def die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    from benchmarks.chaos_simulate import descendants as below

    return below(pid)


def group_lives(group: int) -> bool:
    """Whether a process of the group is there and no zombie."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError, IndexError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    return True
    return False
