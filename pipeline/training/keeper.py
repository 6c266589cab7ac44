"""Rank 0 beside the loop: events, the clock, stop requests, the state on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.run import write_whole
from pipeline.training import checkpoint
from pipeline.training.loop import Loop

Event = dict[str, Any]
LOOK_SECONDS = 0.2  # between two looks
MOST_STEPS = 1000  # between two looks
EVENT_SECONDS = 2.0  # between two events for the journal
CURVES = "curves.json"


class Keeper:
    """Decides when to save and when to stop.

    Arguments:
        directory: where state and curves are kept.
        layout: kept with the state, see `Training.layout`.
        every: seconds between two states on disk.
        walltime: seconds after which to stop.
        stopping: returns why training should stop, "" if it should not.
        emit: takes `progress` events for people and `train` events for the journal.
    """

    def __init__(
        self,
        directory: Path,
        *,
        layout: str,
        every: float,
        walltime: float | None,
        stopping: Callable[[], str],
        emit: Callable[[Event], None],
    ) -> None:
        self.directory, self.layout = directory, layout
        self.every, self.walltime = every, walltime
        self.stopping, self.emit = stopping, emit
        self.reason = ""  # why training was told to stop
        self._started = self._saved = self._looked = time.monotonic()
        self._step: int | None = None  # at the last look
        self._told, self._told_step = float("-inf"), -1

    def look(self, loop: Loop) -> tuple[bool, bool, int]:
        """Return whether to save, whether to stop, and after how many steps to look again."""
        now = time.monotonic()
        self.reason = self.stopping()
        left = float("inf") if self.walltime is None else self._started + self.walltime - now
        if left <= 0:
            self.reason = self.reason or f"train.walltime={self.walltime:g}"
        self._tell(loop, now)
        save = not loop.finished and (bool(self.reason) or now - self._saved >= self.every)
        stride = 1
        if self._step is not None:
            speed = (loop.step - self._step) / max(now - self._looked, 1e-6)
            stride = min(max(int(speed * min(LOOK_SECONDS, left)), 1), MOST_STEPS)
        self._step, self._looked = loop.step, now
        return save, bool(self.reason), stride

    def save(self, loop: Loop) -> None:
        """Keep the state, so that training continues exactly here."""
        checkpoint.write(self.directory, {**loop.state(), "layout": self.layout})
        self.write_curves(loop)
        self._saved = time.monotonic()

    def write_curves(self, loop: Loop) -> None:
        write_whole(self.directory / CURVES, json.dumps(loop.curves, indent=1))

    def _tell(self, loop: Loop, now: float) -> None:
        newest = loop.curves[-1] if loop.curves else None
        loss = newest["validation"] if newest else None
        info = "" if loss is None else f"validation loss {loss:.4g}"
        self.emit({"event": "progress", "step": loop.step, "info": info})
        if newest is None or newest["step"] == self._told_step:
            return
        if loop.finished or now - self._told >= EVENT_SECONDS:
            self._told, self._told_step = now, newest["step"]
            self.emit({"event": "train", **newest})
