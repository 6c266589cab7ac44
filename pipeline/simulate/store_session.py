"""The driver's access to a store while workers write to it."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.store import Outcome, Rows, Schema, Spool, Store, Writer
from pipeline.store.ranges import Ranges

EXAMPLE = 8  # rows in an example
PATIENCE = 30.0  # seconds until the spools of dead workers must be released


class StoreSession:
    """A context manager that holds the store's lock; a store that does not exist yet is made by `create`.

    Arguments:
        path: folder of the store.
        identity: of its simulations, see `pipeline.simulate.setup.identity`.
        shard_bytes: size of a shard.
        writer: one that is open already, which its owner closes; None: the session opens one.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        shard_bytes: int,
        writer: Writer | None = None,
    ) -> None:
        self.path, self.identity, self.shard_bytes = path, identity, shard_bytes
        self._stack = ExitStack()
        self._writer = writer
        self._spool: Spool | None = None
        self._early: list[Rows] = []

    def __enter__(self) -> StoreSession:
        if (self.path / "store.json").exists():
            self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _open(self) -> Writer:
        store = Store.open_or_create(self.path, self.identity, shard_bytes=self.shard_bytes)
        self._writer = self._stack.enter_context(Writer(store))
        shutil.rmtree(self.path / "leases", ignore_errors=True)  # of processes without a driver
        return self._writer

    @property
    def writer(self) -> Writer:
        if self._writer is None:
            raise PipelineError(f"{self.path} was used before the store was made")
        return self._writer

    @property
    def exists(self) -> bool:
        return self._writer is not None

    @property
    def schema(self) -> Schema | None:
        return self._writer.store.schema if self._writer else None

    @property
    def rows_per_shard(self) -> int:
        return self.writer.rows_per_shard(self.schema)

    def wanted(self, budget: int, outcomes: tuple[Outcome, ...]) -> Ranges:
        """Return the ids below the budget that are missing or have one of these outcomes."""
        if self._writer is None:
            return Ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).gaps(0, budget)
        return wanted(self._writer.store, budget, outcomes)

    def example(self) -> Rows | None:
        """Return the first rows of the store that have outputs, at most `EXAMPLE`; None if there are none."""
        if self._writer is None or self._writer.store.schema is None:
            return None
        store = self._writer.store
        ids = store.ids(Outcome.OK, EXAMPLE)
        return store.rows(ids) if len(ids) else None

    def create(self, schema: Schema | None) -> None:
        """Make the store, or give it its schema."""
        writer = self._writer or self._open()
        if schema is not None:
            writer.set_schema(schema)
        for rows in self._early:
            self.record(rows)
        self._early.clear()

    def record(self, rows: Rows) -> None:
        """Keep rows of simulations whose worker died; the driver writes them itself."""
        if self._writer is None:
            self._early.append(rows)
            return
        if self._spool is None:
            self._spool = Spool(
                self._writer.spool_directory, "driver", self.schema, self.rows_per_shard
            )
        self._spool.append(rows)

    def publish(self) -> None:
        """Publish the shards that are finished."""
        if self._writer is not None:
            self._writer.publish()

    def close(self) -> None:
        """Release the driver's own spool."""
        if self._spool is not None:
            self._spool.close()

    def finish(self) -> None:
        """Merge all spools into shards; the workers have closed them or are dead."""
        if self._writer is None:
            return
        self.close()
        deadline = time.monotonic() + PATIENCE
        self._writer.merge()
        while any(self._writer.spool_directory.glob("*.spool")) and time.monotonic() < deadline:
            time.sleep(0.05)
            self._writer.merge()


def wanted(store: Store, budget: int, outcomes: tuple[Outcome, ...]) -> Ranges:
    """Return the ids below the budget that a store lacks or that have one of these outcomes."""
    absent = store.absent(budget)
    return absent.with_ids(store.ranges(*outcomes, budget=budget)) if outcomes else absent
