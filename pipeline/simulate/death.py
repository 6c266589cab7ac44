"""Why a worker died, and what that means for the simulation that was in flight."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from pipeline.simulate import spec
from pipeline.store import Outcome

CRASHES = 2  # times that a simulation may crash its process before it counts as failed
KILLS = 10  # times that the process of a simulation may be killed from outside before it counts as failed
FAILED_STARTS = 20  # workers that may die in a row without one simulation kept
CALLER = os.path.join(*spec.__name__.split(".")) + ".py"  # the file whose frames call the simulator


class Death(Enum):
    """Why a worker died."""

    TIMEOUT = "ended by its alarm"
    CRASH = "a fatal signal"
    KILLED = "killed from outside"

    def outcome(self, times: int) -> Outcome | None:
        """Return the outcome of a simulation whose process died so often in this way; None: try it again."""
        if self is Death.TIMEOUT:
            return Outcome.TIMEOUT
        return Outcome.FAILED if times >= (CRASHES if self is Death.CRASH else KILLS) else None


def read_death(note: Path) -> tuple[Death, str]:
    """Return why the worker with this note died, and the traceback if there is one."""
    try:
        dump = note.with_suffix(".dump").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Death.KILLED, ""
    if "Timeout (" in dump:
        return Death.TIMEOUT, dump
    return (Death.CRASH, dump) if "Fatal Python error" in dump else (Death.KILLED, "")


def crash_reason(dump: str) -> str:
    """Return which signal the traceback of a crash names."""
    line = next(line for line in dump.splitlines() if "Fatal Python error" in line)
    return line.partition("Fatal Python error: ")[2]


def simulator_part(dump: str) -> str:
    """Return the first line of a traceback and the frames of the simulator, without those of its caller."""
    head, _, _ = dump.partition("\n")
    for thread in dump.split("\n\n"):
        lines = thread.splitlines()
        ours = [k for k, line in enumerate(lines) if f'{os.sep}{CALLER}"' in line]
        if ours:
            return "\n".join([head, *(line for line in lines[: ours[0]] if line != head)])
    return dump
