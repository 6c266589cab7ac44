"""Whether a part of a run goes on, is finished, failed, or was ended: from its journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evaluation.tracking.record import Status

Event = dict[str, Any]
COMPLETE = {"simulated", "trained", "evaluated", "abc"}  # events that end a part well
ENDED = "ended"  # event of a command that was left before its work was complete
STATUS: dict[str, Status] = {"failed": "FAILED", "stopped": "KILLED"}
GONE = "its process is gone"


@dataclass(frozen=True)
class RunStatus:
    """How a part of a run stands.

    Attributes:
        status: as MLflow calls it.
        reason: why it failed or was ended, "" otherwise.
        start, end: milliseconds since 1970; `end` is None while it goes on.
    """

    status: Status
    reason: str
    start: int
    end: int | None


def milliseconds(event: Event) -> int:
    """Return the time of an event in milliseconds since 1970."""
    return int(datetime.fromisoformat(event["time"]).timestamp() * 1000)


def outcome(own: Sequence[Event], finished: bool, running: bool, started: int = 0) -> RunStatus:
    """Return how a part stands.

    Arguments:
        own: the events of the part, in order.
        finished: whether its files say so.
        running: whether a process works on it.
        started: milliseconds since 1970, for a part without events.
    """
    times = [milliseconds(event) for event in own] or [started]
    marks = [e for e in own if e.get("event") in COMPLETE | {"start", ENDED}]
    last = marks[-1] if marks else {"event": ""}
    if last.get("event") == ENDED and not running:
        return RunStatus(STATUS[last["outcome"]], str(last["reason"]), times[0], times[-1])
    if running and not (finished or last.get("event") in COMPLETE):
        return RunStatus("RUNNING", "", times[0], None)
    if finished or last.get("event") in COMPLETE:
        return RunStatus("FINISHED", "", times[0], times[-1])
    return RunStatus("KILLED", GONE, times[0], times[-1])
