"""The writer of a store: one at a time, which publishes what the workers wrote."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.errors import DamagedError, LockedError, PipelineError, UsageError
from pipeline.files import synchronise, write_document, writing
from pipeline.locks import try_lock
from pipeline.store.hash import row_hashes
from pipeline.store.mend_schema import mend_schema
from pipeline.store.merge import compact, sweep
from pipeline.store.rows import Outcome, Rows, Schema, concatenate
from pipeline.store.shard import MERGED, Shard, write_shard
from pipeline.store.spool import read_spool
from pipeline.store.store import Store

DEAD = ".dead"  # suffix of a session folder that is being adopted


class Writer:
    """Publishes rows into a store; a context manager that holds the store's lock.

    Entering adopts the rows that dead sessions left. Leaving without an error merges this session's spools and
    small shards; after an error the spools are kept, and the next writer adopts them.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        session = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"
        self.spool_directory = store.path / "sessions" / session
        self._lock = -1

    def __enter__(self) -> Writer:
        self.acquire()
        try:
            mend_schema(self.store)
            sweep(self.store)
            self.adopt()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.merge()
                with suppress(PipelineError):  # all rows are durable: the next writer tries again
                    rows = self.rows_per_shard(self.store.schema)
                    compact(self.store, rows, self.place, self.spool_directory)
                    sweep(self.store)
        finally:
            self.release()

    def acquire(self) -> None:
        """Take the lock and start a session, without adopting others; `LockedError` if it is held."""
        self._lock = _lock(self.store.path / "lock")
        try:
            with writing(self.spool_directory):
                self.spool_directory.mkdir(parents=True)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; the session's folder is removed if it is empty."""
        with suppress(OSError):  # else the next writer adopts it
            self.spool_directory.rmdir()
        os.close(self._lock)
        self._lock = -1

    def set_schema(self, schema: Schema) -> None:
        """Write the outputs' dtypes and shapes once; `UsageError` if the store has others."""
        known = self.store.schema
        if known is None:
            write_document(self.store.path / "schema.json", schema.spec())
        elif known != schema:
            raise UsageError(
                f"{self.store.path} holds outputs {known.spec()}, the simulator gives {schema.spec()}"
            )

    def rows_per_shard(self, schema: Schema | None) -> int:
        """Return how many rows a worker puts into one shard."""
        known = schema or Schema({})
        return known.rows_per_shard(len(self.store.names), self.store.shard_bytes)

    def publish(self) -> int:
        """Rename the workers' finished shards into place and return the number of their rows."""
        return self._publish(self.spool_directory)

    def merge(self) -> int:
        """Publish, and merge the spools of workers that are closed or dead into few shards."""
        rows = self.publish()
        folding = list(self.spool_directory.glob("*.folding"))
        for path in self.spool_directory.glob("*.spool"):
            if _released(path):
                with writing(path):
                    folding.append(path.replace(path.with_suffix(".folding")))
        return rows + self._fold(sorted(folding))

    def _publish(self, folder: Path) -> int:
        rows = 0
        for path in sorted(folder.rglob("*.ready")):
            try:
                rows += len(Shard(path))
            except DamagedError:
                self.quarantine(path)
                continue
            self._place(path)
        if rows:
            synchronise([self.store.path / "shards"])
        return rows

    def _place(self, path: Path) -> None:
        """Rename a finished shard to the next number; processes that publish at once get different numbers.

        A folder is never renamed over one that holds files.
        """
        with writing(path):
            while path.exists():
                try:
                    path.rename(self._next_shard())
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise

    def _next_shard(self) -> Path:
        """Return the path of the next shard: numbers are never used again."""
        shards = self.store.path / "shards"
        names = [path.name for path in shards.iterdir()]
        names += [path.name for path in (self.store.path / MERGED).glob("*")]
        names += [path.name.split("-")[0] for path in (self.store.path / "quarantine").glob("*")]
        return (
            shards / f"{max((int(name) for name in names if name.isdecimal()), default=-1) + 1:06d}"
        )

    def quarantine(self, path: Path) -> Path:
        """Move a damaged shard to `quarantine`, where readers do not look, and return its path there."""
        folder = self.store.path / "quarantine"
        with writing(folder):
            folder.mkdir(exist_ok=True)
            return path.rename(folder / f"{path.stem}-{time.time_ns():x}")

    def commit(self, batches: Iterable[Rows]) -> int:
        """Write batches into as few shards as possible, at most about one shard in memory.

        Rows that the store holds already are dropped; a row that is not ok is replaced by a retry.
        """
        schema = self.store.schema
        limit = self.rows_per_shard(schema)
        held: list[Rows] = []
        rows = size = committed = 0
        for batch in batches:
            held.append(batch)
            rows, size = rows + len(batch), size + batch.nbytes
            if rows >= limit or size >= self.store.shard_bytes:
                committed += self._write(held, schema)
                held, rows, size = [], 0, 0
        return committed + self._write(held, schema)

    def _write(self, batches: list[Rows], schema: Schema | None) -> int:
        if not batches:
            return 0
        rows = self._fresh(concatenate(batches, schema))
        if len(rows):
            self.place(rows)
        return len(rows)

    def place(self, rows: Rows) -> None:
        """Publish rows (at least one) as one shard."""
        ready = self.spool_directory / "commit.ready"
        write_shard(rows, ready.with_suffix(".partial"), ready)
        self._place(ready)
        synchronise([self.store.path / "shards"])

    def _fresh(self, rows: Rows) -> Rows:
        """Return the rows that add something: new ids, and retries of rows that are not ok."""
        index = self.store.index
        at, there = index.find(rows.ids)
        if not there.any():
            return rows
        keep = ~there
        retried = np.flatnonzero(there)
        retried = retried[index.outcome[at[retried]] != Outcome.OK]
        if len(retried):
            ids, back = np.unique(rows.ids[retried], return_inverse=True)
            before, now = index.at(ids).column("hash")[back], row_hashes(rows.take(retried))
            keep[retried] = np.any(before != now, axis=1)
        return rows.take(np.flatnonzero(keep))

    def _fold(self, spools: list[Path]) -> int:
        rows = self.commit(batch for path in spools for batch in read_spool(path))
        with writing(self.spool_directory):
            for path in spools:
                path.unlink()
        return rows

    def adopt(self) -> None:
        """Take over sessions whose driver is dead; renaming them makes workers that are left fail."""
        folders = []
        for session in sorted(self.spool_directory.parent.iterdir()):
            if session == self.spool_directory:
                continue
            folder = session.with_name(session.name.removesuffix(DEAD) + DEAD)
            with writing(session):
                folders.append(session.rename(folder))
        for folder in folders:
            self._publish(folder)
        patterns = ("*.folding", "*.spool")
        self._fold(sorted(p for folder in folders for each in patterns for p in folder.rglob(each)))
        for folder in folders:
            with writing(folder):
                shutil.rmtree(folder)


def _lock(path: Path) -> int:
    """Return the handle of the locked file; `LockedError` names the process that holds it."""
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(handle):
                holder = _described(os.pread(handle, 1000, 0).decode(errors="replace"))
                raise LockedError(f"{path.parent} is being written by {holder}")
            os.ftruncate(handle, 0)
            own = {"host": socket.gethostname(), "pid": os.getpid()}
            os.pwrite(handle, json.dumps(own).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
    return handle


def _described(holder: str) -> str:
    try:
        known = json.loads(holder)
        return f"process {known['pid']} on {known['host']}: wait for it or stop it"
    except (ValueError, KeyError, TypeError):
        return "another process: wait for it or stop it"


def _released(path: Path) -> bool:
    """Whether the spool's worker has closed it or is dead."""
    with open(path, "rb") as file:
        return try_lock(file.fileno())
