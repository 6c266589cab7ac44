"""Progress of committed work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cluster.text import shown

LINE_EVERY = 5.0  # seconds between two plain lines


def duration(seconds: float) -> str:
    """Write seconds as `42s`, `3m05s` or `2h04m`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def log(message: str) -> None:
    """Print one line for people, on stderr, so that stdout stays for machines."""
    print(shown(message), file=sys.stderr, flush=True)


class Progress:
    """Counts work that is committed; rate and ETA come from this session's share alone."""

    def __init__(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done, self.start_done = done, done
        self.started = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[info]}"),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(stage, total=total, completed=done, info="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self.done > self.start_done:
            log(self.line(""))

    @property
    def rate(self) -> float:
        """Units committed per second in this session."""
        return (self.done - self.start_done) / max(time.monotonic() - self.started, 1e-9)

    @property
    def eta(self) -> float:
        """Seconds until `total` at the present rate, infinite while nothing is committed."""
        return (self.total - self.done) / self.rate if self.rate > 0 else float("inf")

    def line(self, info: str) -> str:
        known = self.done < self.total and math.isfinite(self.eta)
        left = f", {duration(self.eta)} left" if known else ""
        extra = f", {info}" if info else ""
        head = f"{self.stage}: {self.done}/{self.total} {self.unit}"
        rate = f", {self.rate:.4g}/s" if self.done > self.start_done else ""
        return f"{head}{rate}{left}{extra}"

    def update(self, done: int, info: str = "") -> None:
        """Say that `done` of `total` units are committed."""
        self.done = done
        if self._bar:
            known = math.isfinite(self.eta)
            text = f"{self.rate:.4g}/s, {duration(self.eta)} left" if known else "starting"
            text += f", {info}" if info else ""
            self._bar.update(self._task, completed=done, info=shown(text))
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            log(self.line(info))
