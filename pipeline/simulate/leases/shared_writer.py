"""A writer for several processes that write into a store at the same time, each in its own session."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from types import TracebackType

import numpy as np

from pipeline.errors import UsageError
from pipeline.files import seal, synchronise, writing
from pipeline.simulate.store_session import wanted
from pipeline.store import Outcome, Schema, Writer
from pipeline.store.spool import scan

WHOLE = 8  # a spool of at least 1/8 of a shard becomes a shard when its process ends


class SharedWriter(Writer):
    """Writes without the store's lock: rows go to this session's spools, whole shards are published.

    A session belongs to the process that can rename its folder. Small spools are merged by the process that
    finishes the budget.
    """

    def __enter__(self) -> SharedWriter:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._seal()
        finally:
            self.release()

    def acquire(self) -> None:
        """Start a session."""
        with writing(self.spool_directory):
            self.spool_directory.parent.mkdir(exist_ok=True)  # fails where the store was deleted
            self.spool_directory.mkdir()

    def release(self) -> None:
        """End the session; its folder is removed if it is empty."""
        with suppress(OSError):
            self.spool_directory.rmdir()

    def set_schema(self, schema: Schema) -> None:
        """Write the outputs' dtypes and shapes, unless they are there; `UsageError` if the store has others."""
        final = self.store.path / "schema.json"
        partial = final.with_name(f".schema.json.{secrets.token_hex(4)}")
        with writing(final):
            partial.write_text(seal(schema.spec()), encoding="utf-8")
            synchronise([partial])
            with suppress(FileExistsError):
                os.link(partial, final)
            partial.unlink()
        if self.store.schema != schema:
            known = self.store.schema.spec() if self.store.schema else None
            raise UsageError(
                f"{self.store.path} holds outputs {known}, the simulator gives {schema.spec()}"
            )

    def take_session(self, name: str) -> None:
        """Take over the session of a dead process; one that is alive after all misses its folder and fails."""
        sessions = self.spool_directory.parent
        with suppress(FileNotFoundError):  # another process took it over
            (sessions / name).rename(self.spool_directory / name)
            self.publish()

    def durable(self, ids: np.ndarray, again: tuple[Outcome, ...] = ()) -> np.ndarray:
        """Return those of the ids (n,) that are in a shard, or in a spool of a session taken over.

        Rows of a shard with one of the outcomes `again` do not count.
        """
        _, missing = wanted(self.store, int(ids.max()) + 1, again).find(ids)
        found = [ids[~missing]]
        for path in self.spool_directory.glob("*/**/*.spool"):
            with open(path, "rb") as file:
                found += [entry.ids[np.isin(entry.ids, ids)] for entry in scan(file)]
        return np.unique(np.concatenate(found))

    def _seal(self) -> None:
        """Make shards of large spools, whose workers have ended: less is left to the process that finishes."""
        for path in self.spool_directory.rglob("*.spool"):
            if path.stat().st_size * WHOLE >= self.store.shard_bytes:
                with writing(path):
                    self._fold([path])
        self.publish()
