"""The note of a worker: which simulation is in flight, and the alarm that ends one that takes too long.

The driver reads the note when the worker has died; `pipeline.simulate.death` reads why it died. The alarm is
`faulthandler`: a thread in C that needs no GIL, so that a simulation stuck in C code is ended as well. It writes
the traceback and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

FORMAT = struct.Struct(
    "<qqqqd"
)  # block, rows of it that are kept, position in flight, its key, time it began
FAR = 10.0  # seconds; keeping rows takes less
NOTHING = -1  # no block, no simulation in flight, or no key
REARM = 0.05  # seconds; setting the alarm costs 50 us, a simulation may cost less


class Notebook:
    """Writes the note of this process, and ends the process when a simulation takes too long.

    Arguments:
        path: of the note; the traceback goes beside it, with suffix `.dump`.
        limit: seconds that one simulation, or one key of a batched simulator, may take; None: no limit.
    """

    def __init__(self, path: Path, limit: float | None) -> None:
        self.limit = limit
        self._alarm: float | None = None  # when it was set
        self._note = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._dump = os.open(
            path.with_suffix(".dump"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        faulthandler.enable(file=self._dump, all_threads=False)
        self._block, self._kept = NOTHING, 0

    def begin(self, block: int) -> None:
        """Note that a block begins."""
        self._block, self._kept = block, 0
        self._write(NOTHING)

    def running(self, position: int, key: int = NOTHING) -> None:
        """Note that the simulation at this position of the block begins; it has `limit` seconds from now.

        The alarm is set anew only every 50 ms: it comes at most that much late, and never early.
        """
        self._write(position, key)
        if self.limit is None:
            return
        now = time.monotonic()
        if self._alarm is None or now - self._alarm > REARM:
            faulthandler.dump_traceback_later(self.limit + REARM, exit=True, file=self._dump)
            self._alarm = now

    def rest(self) -> None:
        """Note that no simulation is in flight: what follows is not the simulator's time.

        An alarm that is far off stays on, which saves 100 us. Should it go off all the same, no simulation is held
        responsible.
        """
        self._write(NOTHING)
        if self._alarm is not None and self._alarm + (self.limit or 0.0) < time.monotonic() + FAR:
            self.idle()

    def idle(self) -> None:
        """Switch the alarm off: there is no work."""
        if self._alarm is not None:
            faulthandler.cancel_dump_traceback_later()
            self._alarm = None

    def kept(self, rows: int) -> None:
        """Note that the first `rows` rows of the block are kept."""
        self._kept = rows
        self._write(NOTHING)

    def _write(self, position: int, key: int = NOTHING) -> None:
        write_note(self._note, Note(self._block, self._kept, position, key, time.time()))


@dataclass(frozen=True)
class Note:
    """The last note of a worker: `position` of `block` in flight since `began`, `kept` rows of the block.

    `key` is that of the simulation in flight.
    """

    block: int = NOTHING
    kept: int = 0
    position: int = NOTHING
    key: int = NOTHING
    began: float = 0.0


def write_note(handle: int, note: Note) -> None:
    """Replace the note in an open file."""
    fields = note.block, note.kept, note.position, note.key, note.began
    os.pwrite(handle, FORMAT.pack(*fields), 0)


def read_note(path: Path) -> Note:
    """Return the last note of a worker; an empty note if it wrote none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Note()
    return Note(*FORMAT.unpack(data)) if len(data) == FORMAT.size else Note()
