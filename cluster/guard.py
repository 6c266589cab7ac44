"""A process whose Ray is gone leaves within seconds, even out of a call to Ray that would block for a minute."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DIED = "Ray died; everything finished is kept: repeat the same command to continue"
EXIT_CODE = 1
LOOK = 0.5  # seconds between two looks at Ray
MISSES = 3  # looks in a row without Ray: it is gone
LEAVE = 2.5  # seconds that this process then has to leave by itself


@contextmanager
def guard(alive: Callable[[], bool]) -> Iterator[threading.Event]:
    """End this process when Ray is gone and the block does not; the event it yields calls the guard off.

    What waits for an answer inside Ray's C++ code cannot be interrupted by an exception.
    """
    over = threading.Event()

    def watch() -> None:
        misses = 0
        while misses < MISSES:
            if over.wait(LOOK):
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
