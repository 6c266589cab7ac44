"""The lock that readers of a store share: merged shards are kept while it is held."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.locks import lock, try_lock

NAME = (
    "readers"  # a file that readers lock together, and the process that deletes merged shards alone
)


class Reader:
    """Holds the shared lock until it is collected; without a lock where the store has no such file."""

    def __init__(self, store: Path) -> None:
        self._handle = -1
        with suppress(OSError):
            self._handle = os.open(store / NAME, os.O_RDONLY | os.O_CLOEXEC)
            lock(self._handle, shared=True)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


@contextmanager
def without_readers(store: Path) -> Iterator[bool]:
    """Yield whether there is no reader; new ones wait until the context is left."""
    handle = os.open(store / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)
