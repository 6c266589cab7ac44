"""Leave cleanly: SIGINT, SIGTERM and SIGUSR1 ask the running stage to commit and stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """A request to stop that a stage polls between two units of work."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""
        self.interrupts = False  # whether the first signal interrupts, too

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._event.set()

    def check(self, stage: str) -> None:
        """Raise `Stopped` if a stop was requested."""
        if self.requested:
            raise Stopped(f"{stage} stopped by {self.reason}; repeat the same command to continue")

    @contextmanager
    def at_once(self, stage: str) -> Iterator[None]:
        """Stop work without waiting for its units: for what may be cut anywhere and be repeated.

        Raises:
            Stopped: a stop was requested, before or within.
        """
        self.check(stage)
        try:
            self.interrupts = True
            yield
        except (KeyboardInterrupt, Exception):  # an import that is cut raises what it likes
            self.check(stage)
            raise
        else:
            self.check(stage)
        finally:
            self.interrupts = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first signal into a stop request; a second SIGINT interrupts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        again = stop.requested and number == signal.SIGINT
        stop.request(signal.Signals(number).name)
        if again or stop.interrupts:
            raise KeyboardInterrupt

    def tell(problem: sys.UnraisableHookArgs) -> None:
        if not (stop.requested and issubclass(problem.exc_type, KeyboardInterrupt)):
            told(problem)  # an interrupt within the removal of an object is as good as a request

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    told, sys.unraisablehook = sys.unraisablehook, tell
    try:
        yield stop
    finally:
        sys.unraisablehook = told
        for number, handler in before.items():
            signal.signal(number, handler)
