"""The journal of a run: one JSON object a line, only ever appended.

What it holds is the truth; MLflow is replayed from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written into the journal: {value!r}")


class Journal:
    """Events in the order in which they happened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event, with its time, by a single write: a reader sees it whole or not at all.

        A line that a kill cut short is closed first, so that it spoils only itself.

        Raises:
            TypeError: the event holds something that JSON has no word for.
        """
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        line = json.dumps(stamped, default=_plain).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(handle, line)
            if written != len(line):
                raise OSError(f"{self.path}: only {written} of {len(line)} bytes written")
        finally:
            os.close(handle)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole events; lines that were cut short are left out."""
        events = []
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events
