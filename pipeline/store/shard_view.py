"""Views of a shard: some of its rows, read on demand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.store.errors import damaged
from pipeline.store.hash import check
from pipeline.store.index import Index
from pipeline.store.ranges import expand
from pipeline.store.rows import Rows, Schema, concatenate, with_outputs
from pipeline.store.shard import FAILURES, METADATA, Shard

GAP = 1024  # rows between two others that are read rather than skipped


@dataclass(frozen=True, eq=False)
class ShardView:
    """Some rows of one shard, read on demand; small enough to be sent to another process.

    Rows are compared with their hashes, and columns with the manifest; a `DamagedError` names the shard. `rows`
    is an index of this shard alone.
    """

    shard: Shard
    rows: Index
    schema: Schema | None

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardView, (self.shard, replace(self.rows, shards=()), self.schema)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.rows.count)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def ids(self) -> np.ndarray:
        """Ids (n,), increasing."""
        return expand(self.rows.first, self.rows.count)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which (m,) of increasing ids (n,) are here, as positions of them, and where here (m,)."""
        if not len(self) or not len(ids):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        last = self.rows.first[-1] + self.rows.count[-1]
        low, high = np.searchsorted(ids, (self.rows.first[0], last))
        at, there = self.rows.find(ids[low:high])
        inside = self._ends[at] - self.rows.count[at] + ids[low:high] - self.rows.first[at]
        return np.flatnonzero(there) + low, inside[there]

    def part(self, start: int = 0, stop: int | None = None) -> Index:
        """Return rows `start` to `stop` of this view, as an index."""
        start, stop, _ = slice(start, stop).indices(len(self))
        low = int(np.searchsorted(self._ends, start, side="right"))
        high = int(np.searchsorted(self._ends, stop))
        part = self.rows.where(slice(low, high + 1 if start < stop else low))
        if not len(part.first):
            return part
        first, count, row = part.first.copy(), part.count.copy(), part.row.copy()
        count[-1] -= self._ends[high] - stop
        skip = start - (self._ends[low] - self.rows.count[low])
        first[0], count[0], row[0] = first[0] + skip, count[0] - skip, row[0] + skip
        return replace(part, first=first, count=count, row=row)

    def read(self, start: int = 0, stop: int | None = None, seconds: bool = True) -> Rows:
        """Return rows `start` to `stop` of this view; memory is that of the range they span.

        To check run times all those of the shard are read; without `seconds` they are 0.
        """
        part = self.part(start, stop)
        near = np.flatnonzero(np.diff(part.row) - part.count[:-1] > GAP) + 1
        stretches = [part.where(chosen) for chosen in np.split(np.arange(len(part.first)), near)]
        rows = [self._stretch(stretch, seconds) for stretch in stretches]
        return concatenate(rows, self.schema)

    def _stretch(self, part: Index, seconds: bool) -> Rows:
        """Read rows that are near each other: all rows from the first to the last are read."""
        n = len(part)
        low = int(part.row[0]) if n else 0
        high = int(part.row[-1] + part.count[-1]) if n else 0
        self.shard.require(METADATA)
        kept = slice(None) if high - low == n else expand(part.row - low, part.count)
        columns = {
            "id": expand(part.first, part.count),
            "outcome": np.repeat(part.outcome, part.count),
            "seconds": np.zeros(n, np.float32),
        }
        for name in self.shard.arrays:
            if name not in ("hash", *columns):
                columns[name] = self.shard.read(name, low, high)[kept]
        rows = with_outputs(Rows.from_columns(columns, ()), self.schema)
        if not check(rows, self.shard.hashes(low, high)[kept]):
            raise damaged(self.shard.path, "rows do not match their hashes")
        return (
            replace(rows, seconds=self.shard.column("seconds", low, high)[kept])
            if seconds
            else rows
        )

    def column(self, name: str) -> np.ndarray:
        """Return one column of all rows by its name in the shard, e.g. `theta` or `x/signal`."""
        if name == "id":
            return self.ids
        self.shard.require(METADATA)
        if name not in self.shard.arrays:  # a shard without outputs
            return self.read().columns()[name]
        values = self.shard.column(name)
        return (
            values if len(values) == len(self) else values[expand(self.rows.row, self.rows.count)]
        )

    def longest(self, name: str) -> int:
        """Return the length to which this shard pads a ragged output."""
        self.shard.require(METADATA)
        arrays = self.shard.arrays
        return arrays[f"x/{name}"][1][1] if f"x/{name}" in arrays else 0

    def with_failures(self) -> Rows:
        """Return all rows with the reasons of those that are not ok."""
        rows, kept = self.read(), set(self.ids.tolist())
        if not rows.outcome.any():
            return rows
        self.shard.require(FAILURES)
        reasons = tuple(reason for reason in self.shard.failures() if reason.id in kept)
        return replace(rows, failures=reasons)
