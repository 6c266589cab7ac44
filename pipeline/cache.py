"""What was read from files, kept while they do not change: a command reads and checks a file once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
SETTLED = 50_000_000  # nanoseconds after a change, from which on a further change has another time
MAX_ENTRIES = 64  # the oldest are forgotten

Signature = tuple[tuple[int, int, int, int], ...]


class FileCache(Generic[T]):
    """Values by key, each valid as long as size and times of its files stay the same."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Signature, T]] = {}

    def get(self, key: Hashable, files: tuple[Path, ...], read: Callable[[], T]) -> T:
        """Return the value of `key`, which is read anew where a file has changed or is missing.

        Arguments:
            key: name of the value, with all that it depends on beside the files.
            files: the files that `read` reads.
            read: returns the value.
        """
        known = self._values.get(key)
        if known is not None and known[0] == _signature(files):
            return known[1]
        return self.read(key, files, read)

    def read(self, key: Hashable, files: tuple[Path, ...], read: Callable[[], T]) -> T:
        """Read the value of `key` in any case, and keep it; the arguments are those of `get`."""
        self._values.pop(key, None)
        signature, value = _signature(files), read()
        if signature is not None:
            while len(self._values) >= MAX_ENTRIES:
                self._values.pop(next(iter(self._values)))
            self._values[key] = signature, value
        return value


def _signature(files: tuple[Path, ...]) -> Signature | None:
    """Return what changes with the files; None where one is missing, or so new that a change may not show."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            return None
        if time.time_ns() - status.st_mtime_ns < SETTLED:
            return None
        found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)
