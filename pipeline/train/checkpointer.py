"""When the state of a training is saved and when training stops: by the clock and by request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.results import write_curves
from pipeline.train import checkpoint
from pipeline.train.loop import Loop
from pipeline.usage import Usage

Event = dict[str, Any]
CHECK_SECONDS = 0.2  # between two checks
MAX_STEPS = 1000  # between two checks
EVENT_SECONDS = 2.0  # between two events for the journal
PACE_SECONDS = 5.0  # between two events that say how fast it goes


class Checkpointer:
    """Saves the state of a training on rank 0 and decides when training stops.

    Arguments:
        directory: folder of the state and of the loss curves.
        layout: saved with the state, see `Training.layout`.
        every: seconds between two saved states.
        walltime: seconds after which training stops; None sets no limit.
        stopping: returns why training should stop, "" if it should not.
        emit: takes `progress` events for the terminal, `train` and `pace` events for the journal.
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
        self._started = self._saved = self._checked = time.monotonic()
        self._step: int | None = None  # at the last check
        self._reported, self._reported_step = float("-inf"), -1
        self._paced, self._paced_step = self._started, 0
        self._usage = Usage()

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        """Return whether to save, whether to stop, and after how many steps to check again."""
        now = time.monotonic()
        self.reason = self.stopping()
        left = float("inf") if self.walltime is None else self._started + self.walltime - now
        if left <= 0:
            self.reason = self.reason or f"train.walltime={self.walltime:g}"
        self._report(loop, now)
        save = not loop.finished and (bool(self.reason) or now - self._saved >= self.every)
        stride = 1
        if self._step is not None:
            speed = (loop.step - self._step) / max(now - self._checked, 1e-6)
            stride = min(max(int(speed * min(CHECK_SECONDS, left)), 1), MAX_STEPS)
        self._step, self._checked = loop.step, now
        return save, bool(self.reason), stride

    def save(self, loop: Loop) -> None:
        """Save the state, from which training continues exactly."""
        checkpoint.write(self.directory, {**loop.state(), "layout": self.layout})
        write_curves(self.directory, loop.curves)
        self._saved = time.monotonic()

    def _report(self, loop: Loop, now: float) -> None:
        newest = loop.curves[-1] if loop.curves else None
        loss = newest["validation"] if newest else None
        info = "" if loss is None else f"validation loss {loss:.4g}"
        self.emit({"event": "progress", "step": loop.step, "info": info})
        self._pace(loop, now)
        if newest is None or newest["step"] == self._reported_step:
            return
        if loop.finished or now - self._reported >= EVENT_SECONDS:
            self._reported, self._reported_step = now, newest["step"]
            self.emit({"event": "train", **newest})

    def _pace(self, loop: Loop, now: float) -> None:
        """Tell how fast training goes, between the validations too."""
        if self._paced_step == 0:  # the first check of this process
            self._paced, self._paced_step = now, loop.step
        if now - self._paced < PACE_SECONDS or loop.finished:
            return
        speed = (loop.step - self._paced_step) / (now - self._paced)
        event = {"step": loop.step, "steps_per_second": round(speed, 3), **loop.pace()}
        self.emit({"event": "pace", **event, "usage": self._usage()})
        self._paced, self._paced_step = now, loop.step
