"""One of several processes that write into a store at the same time, each in a session of its own."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from types import TracebackType

import numpy as np

from pipeline.errors import UsageError
from pipeline.simulation.ledger import wanted
from pipeline.store import Outcome, Schema, Writer
from pipeline.store.files import seal, synchronise, writing
from pipeline.store.spool import scan

WHOLE = 8  # a spool of this part of a shard or more becomes one when its process leaves


class Member(Writer):
    """Writes without the store's lock: rows go to this session's spools, whole shards into place.

    A session belongs to whoever can rename its folder. Small spools stay for the one who finishes.
    """

    def __enter__(self) -> Member:
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
            self.spool_directory.mkdir(parents=True)

    def release(self) -> None:
        """End the session; its folder goes if nothing is left in it."""
        with suppress(OSError):
            self.spool_directory.rmdir()

    def set_schema(self, schema: Schema) -> None:
        """Write the outputs' dtypes and shapes unless somebody did; `UsageError` if the store has others."""
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
        """Take the session of a dead process: one that still lives finds its folder gone, and fails."""
        sessions = self.spool_directory.parent
        with suppress(FileNotFoundError):  # another took it
            (sessions / name).rename(self.spool_directory / name)
            self.publish()

    def durable(self, ids: np.ndarray, again: tuple[Outcome, ...] = ()) -> np.ndarray:
        """Return those of the ids (n,) that lie in a shard, or in a spool of a session taken over.

        What a shard holds with one of the outcomes `again` does not count.
        """
        found = [np.setdiff1d(ids, wanted(self.store, int(ids.max()) + 1, again))]
        for path in self.spool_directory.glob("*/**/*.spool"):
            with open(path, "rb") as file:
                found += [entry.ids[np.isin(entry.ids, ids)] for entry in scan(file)]
        return np.unique(np.concatenate(found))

    def _seal(self) -> None:
        """Make shards of large spools, whose workers have gone, so that whoever finishes has little to do."""
        for path in self.spool_directory.rglob("*.spool"):
            if path.stat().st_size * WHOLE >= self.store.shard_bytes:
                with writing(path):
                    self._fold([path])
        self.publish()
