"""What an actor was doing when it died: its last note, and the traceback that its alarm left.

Before each simulation an actor notes which one is in flight. The alarm is `faulthandler`: a thread in C that needs
no GIL, so that a simulation stuck in C code is ended as well; it writes the traceback and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import struct
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

FORMAT = struct.Struct("<qqqd")  # unit, rows of it that are kept, position in flight, time it began
FAR = 10.0  # seconds; keeping rows takes less
NOTHING = -1  # no unit, or none in flight
REARM = 0.05  # seconds; setting the alarm costs 50 us, a simulation may cost less


class Notebook:
    """The actor's side: note what is in flight, and end the process when it takes too long.

    Args:
        path: where the note goes; the traceback goes beside it, with suffix `.dump`.
        limit: seconds that one simulation, or one block, may take; None: for ever.
    """

    def __init__(self, path: Path, limit: float | None) -> None:
        self.limit = limit
        self._alarm: float | None = None  # when it was set
        self._note = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._dump = os.open(
            path.with_suffix(".dump"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        faulthandler.enable(file=self._dump, all_threads=False)
        self._unit, self._kept = NOTHING, 0

    def begin(self, unit: int) -> None:
        """Note that a unit of work begins."""
        self._unit, self._kept = unit, 0
        self._write(NOTHING)

    def running(self, position: int) -> None:
        """Note that the simulation at this position of the unit begins; it has `limit` seconds from now.

        The alarm is set anew every 50 ms only, so that it comes at most so much late, and never early.
        """
        self._write(position)
        if self.limit is None:
            return
        now = time.monotonic()
        if self._alarm is None or now - self._alarm > REARM:
            faulthandler.dump_traceback_later(self.limit + REARM, exit=True, file=self._dump)
            self._alarm = now

    def rest(self) -> None:
        """Note that nothing is in flight: what follows is not the simulator's time.

        An alarm that is far off stays, which saves 100 us; should it ring after all, nobody is blamed.
        """
        self._write(NOTHING)
        if self._alarm is not None and self._alarm + (self.limit or 0.0) < time.monotonic() + FAR:
            self.idle()

    def idle(self) -> None:
        """Switch the alarm off: no work is there."""
        if self._alarm is not None:
            faulthandler.cancel_dump_traceback_later()
            self._alarm = None

    def kept(self, rows: int) -> None:
        """Note that the first `rows` rows of the unit are kept."""
        self._kept = rows
        self._write(NOTHING)

    def _write(self, position: int) -> None:
        os.pwrite(self._note, FORMAT.pack(self._unit, self._kept, position, time.time()), 0)


class Death(Enum):
    """Why an actor is no more."""

    TIMEOUT = "ended by its alarm"
    CRASH = "a fatal signal"
    KILLED = "killed from outside"


@dataclass(frozen=True)
class Note:
    """The last note of an actor: `position` of `unit` in flight since `began`, `kept` rows of the unit."""

    unit: int = NOTHING
    kept: int = 0
    position: int = NOTHING
    began: float = 0.0


def read_note(path: Path) -> Note:
    """Return what an actor noted last; an empty note if it never got so far."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Note()
    return Note(*FORMAT.unpack(data)) if len(data) == FORMAT.size else Note()


def read_death(path: Path) -> tuple[Death, str]:
    """Return why the actor with this note died, and the traceback if there is one."""
    try:
        dump = path.with_suffix(".dump").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Death.KILLED, ""
    if "Timeout (" in dump:
        return Death.TIMEOUT, dump
    return (Death.CRASH, dump) if "Fatal Python error" in dump else (Death.KILLED, "")


def crash_reason(dump: str) -> str:
    """Return which signal a crash's dump names."""
    line = next(line for line in dump.splitlines() if "Fatal Python error" in line)
    return line.partition("Fatal Python error: ")[2]


def simulator_part(dump: str) -> str:
    """Return the head of a dump and the stack of the simulation, down to where our own code called it."""
    head, _, _ = dump.partition("\n")
    for block in dump.split("\n\n"):
        lines = block.splitlines()
        ours = [
            k for k, line in enumerate(lines) if f"{os.sep}pipeline{os.sep}simulation.py" in line
        ]
        if ours:
            stack = [line for line in lines[: ours[0]] if line != head]
            return "\n".join([head, *stack])
    return dump
