"""Ends this process within seconds after Ray has died, even where a call to Ray would block for a minute."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DIED = "Ray died; everything finished is kept: repeat the same command to continue"
EXIT_CODE = 1
CHECK_EVERY = 0.5  # seconds between two checks of Ray
MISSES = 3  # failed checks in a row after which Ray counts as dead
LEAVE = 2.5  # seconds that this process then has to end by itself


@contextmanager
def guard(alive: Callable[[], bool]) -> Iterator[threading.Event]:
    """End this process when Ray has died and the block does not end; setting the event it yields stops the guard.

    A call that waits inside Ray's C++ code cannot be interrupted by an exception.
    """
    over = threading.Event()

    def watch() -> None:
        misses = 0
        while misses < MISSES:
            if over.wait(CHECK_EVERY):
                return
            misses = 0 if alive() else misses + 1
        if not over.wait(LEAVE):
            print(f"sbiflow: {DIED}", file=sys.stderr, flush=True)
            os._exit(EXIT_CODE)

    threading.Thread(target=watch, name="ray-guard", daemon=True).start()
    try:
        yield over
    finally:
        over.set()
