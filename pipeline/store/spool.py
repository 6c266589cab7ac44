"""The spool of one worker: its rows that are not in a shard yet, durable as soon as `append` returns."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from pipeline.errors import LockedError, PipelineError
from pipeline.files import writing
from pipeline.locks import try_lock
from pipeline.store.rows import Failure, Rows, Schema, concatenate
from pipeline.store.shard import write_shard

MAGIC = b"SBI1"
HEADER = struct.Struct("<4sIQIIII")  # magic, rows, bytes of body, bytes of layout, three CRC-32
SYNC_EVERY = 5.0  # seconds between two flushes to the device, which protect from power cuts
SHARD_BYTES = 32 << 20  # a spool as long as this becomes a shard, however few its rows


class Spool:
    """Appends rows of one worker; as many as a shard holds become a shard, which the driver publishes.

    Arguments:
        directory: `spool_directory` of the writer.
        name: unique among living workers; the spool of a dead worker of the same name is continued.
        schema: of the outputs; None before it is known.
        rows_per_shard: rows that become a shard.
        shard_bytes: size from which on fewer rows become a shard.

    Raises:
        PipelineError: another driver took over the session.
    """

    def __init__(
        self,
        directory: Path | str,
        name: str,
        schema: Schema | None,
        rows_per_shard: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.directory, self.name, self.schema = Path(directory), name, schema
        self.rows_per_shard, self.shard_bytes = rows_per_shard, shard_bytes
        self.path = self.directory / f"{name}.spool"
        self._synced = time.monotonic()
        with writing(self.path):
            self._handle = _open_locked(self.path)
            for folder in self.directory.glob(f"{name}-*.partial"):
                shutil.rmtree(folder)
            self._rows, self._end = _intact(self.path)
            os.ftruncate(self._handle, self._end)

    def append(self, rows: Rows) -> None:
        """Keep rows; on return a kill of any process loses none of them."""
        rows = rows.conform(self.schema)
        if not len(rows):
            return
        if self._rows + len(rows) < self.rows_per_shard and self._end < self.shard_bytes:
            self._end = self._write(self._handle, _encode(rows), self._end)
            self._rows += len(rows)
        else:
            self._seal(rows)
        self.check_owned()

    def _seal(self, rows: Rows) -> None:
        """Write the spool's rows and these as whole shards; the rest begins the next spool."""
        with writing(self.path):
            rows = concatenate([*read_spool(self.path), rows], self.schema)
        whole = len(rows) - len(rows) % self.rows_per_shard or len(rows)
        for start in range(0, whole, self.rows_per_shard):
            part = rows.take(slice(start, min(start + self.rows_per_shard, whole)))
            stem = self._next_stem()
            write_shard(part, stem.with_suffix(".partial"), stem.with_suffix(".ready"))
        self._restart(rows.take(slice(whole, None)))

    def _next_stem(self) -> Path:
        stems = (self.directory / f"{self.name}-{number:06d}" for number in count())
        return next(stem for stem in stems if not stem.with_suffix(".ready").exists())

    def _restart(self, rows: Rows) -> None:
        """Replace the spool by one that holds `rows`; a reader sees the old or the new one."""
        if not self._end and not len(rows):
            return
        fresh = self.path.with_suffix(".fresh")
        with writing(self.path):
            fresh.unlink(missing_ok=True)
            handle = _open_locked(fresh)
            try:
                end = self._write(handle, _encode(rows), 0) if len(rows) else 0
                self.check_owned()
                os.replace(fresh, self.path)
            except BaseException:
                os.close(handle)
                raise
        os.close(self._handle)
        self._handle, self._rows, self._end = handle, len(rows), end

    def _write(self, handle: int, record: list[Any], end: int) -> int:
        """Write a record at `end`, wholly or not at all, and return where it ends."""
        size = sum(len(part) for part in record)
        with writing(self.path):
            try:
                written = os.pwritev(handle, record, end)
                if written < size:  # a second attempt succeeds or raises the reason
                    rest = b"".join(record)[written:]
                    if os.pwrite(handle, rest, end + written) < len(rest):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                os.ftruncate(handle, end)
                raise
            if time.monotonic() - self._synced >= SYNC_EVERY:
                os.fsync(handle)
                self._synced = time.monotonic()
        return end + size

    def check_owned(self) -> None:
        """Raise `PipelineError` if another driver has taken over the session: further rows would be lost."""
        try:
            owned = os.stat(self.path).st_ino == os.fstat(self._handle).st_ino
        except FileNotFoundError:
            owned = False
        if not owned:
            raise PipelineError(
                f"{self.path} was taken over by another driver: this worker must end"
            )

    def close(self) -> None:
        """Flush to the device and release the spool, so that `Writer.merge` can merge it."""
        if self._handle >= 0:
            with writing(self.path):
                os.fsync(self._handle)
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_locked(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not try_lock(handle):
            raise LockedError(f"{path} is used by another living worker: give each its own name")
    except BaseException:
        os.close(handle)
        raise
    return handle


@dataclass(frozen=True, eq=False)
class SpoolRecord:
    """One record of a spool: which rows it holds and where."""

    ids: np.ndarray
    outcome: np.ndarray
    body: int  # position of the body in the file
    end: int
    layout: int  # bytes of the body that describe it
    checksum: int


def _encode(rows: Rows) -> list[Any]:
    """Return a record as a list of buffers: header, ids with outcomes, layout, columns."""
    columns = rows.columns()
    key = columns.pop("id").tobytes() + columns.pop("outcome").tobytes()
    described = {
        "columns": [[name, array.dtype.str, array.shape] for name, array in columns.items()],
        "failures": [failure.spec() for failure in rows.failures],
    }
    layout = json.dumps(described).encode()
    body: list[Any] = [
        layout,
        *(array.reshape(-1).view(np.uint8).data for array in columns.values()),
    ]
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    fields = (MAGIC, len(rows), sum(map(len, body)), len(layout), zlib.crc32(key), checksum, 0)
    head = HEADER.pack(*fields)[:-4]
    return [head + struct.pack("<I", zlib.crc32(head)), key, *body]


def scan(file: BinaryIO, start: int = 0) -> Iterator[SpoolRecord]:
    """Yield the records from `start` to the first damaged or unfinished one; bodies are skipped."""
    size = os.fstat(file.fileno()).st_size
    file.seek(start)
    while len(head := file.read(HEADER.size)) == HEADER.size:
        magic, rows, body, layout, key_crc, body_crc, head_crc = HEADER.unpack(head)
        if magic != MAGIC or zlib.crc32(head[:-4]) != head_crc:
            return
        key = file.read(9 * rows)
        position = start + HEADER.size + 9 * rows
        end = position + body
        if end > size or zlib.crc32(key) != key_crc:
            return
        ids = np.frombuffer(key, "<i8", rows)
        yield SpoolRecord(
            ids, np.frombuffer(key, "u1", rows, 8 * rows), position, end, layout, body_crc
        )
        start = end
        file.seek(start)


def read_rows(file: BinaryIO, entry: SpoolRecord) -> Rows:
    """Return the rows of a record; `ValueError` if its body is damaged."""
    back = file.tell()
    file.seek(entry.body)
    body = file.read(entry.end - entry.body)
    file.seek(back)
    if zlib.crc32(body) != entry.checksum:
        raise ValueError(f"damaged record at byte {entry.body}")
    layout = json.loads(body[: entry.layout])
    columns, offset = {"id": entry.ids, "outcome": entry.outcome}, entry.layout
    for name, dtype, shape in layout["columns"]:
        count = int(np.prod(shape))
        columns[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += columns[name].nbytes
    return Rows.from_columns(columns, [Failure.from_spec(spec) for spec in layout["failures"]])


def read_spool(path: Path) -> Iterator[Rows]:
    """Yield the rows of a spool, batch by batch, up to the first damaged record."""
    with open(path, "rb") as file:
        for entry in scan(file):
            try:
                rows = read_rows(file, entry)
            except ValueError:
                return
            yield rows


def _intact(path: Path) -> tuple[int, int]:
    """Return how many rows, in how many bytes, precede the first damaged record."""
    rows = end = 0
    with open(path, "rb") as file:
        for entry in scan(file):
            try:
                read_rows(file, entry)
            except ValueError:
                break
            rows, end = rows + len(entry.ids), entry.end
    return rows, end
