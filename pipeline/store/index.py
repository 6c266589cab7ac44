"""The index of a store: which row of which shard counts for each id, as runs of consecutive rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipeline.store.manifest import Runs
from pipeline.store.ranges import Ranges, expand
from pipeline.store.rows import Outcome, winners
from pipeline.store.shard import Shard

Columns = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Index:
    """Runs of rows that count, increasing by id, without overlap: all columns (k,).

    A run is consecutive ids in consecutive rows of one shard with one outcome. Memory grows with the number of
    runs, not with that of rows.
    """

    shards: tuple[Shard, ...]
    first: np.ndarray  # id
    count: np.ndarray
    shard: np.ndarray  # in `shards`
    row: np.ndarray  # in its shard
    outcome: np.ndarray

    @classmethod
    def empty(cls) -> Index:
        kinds = np.int64, np.int64, np.int32, np.int64, np.uint8
        return cls((), *(np.zeros(0, kind) for kind in kinds))

    @property
    def columns(self) -> Columns:
        return self.first, self.count, self.shard, self.row, self.outcome

    def with_shards(self, new: Sequence[Shard]) -> Index:
        """Return the index of these shards and later ones."""
        return replace(self._joined([one.runs for one in new]), shards=(*self.shards, *new))

    def with_rows(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Index:
        """Return the index with batches (ids, outcome) that are in no shard yet: for counting, not for reading."""
        runs = []
        for ids, outcome in batches:
            best = winners(ids, outcome)
            runs.append(Runs.of(ids[best], outcome[best]))
        return self._joined(runs)

    def _joined(self, batches: Sequence[Runs]) -> Index:
        """Return the index with the runs of further shards, of which a later one wins."""
        parts: list[Columns] = [self.columns]
        for number, (first, count, row, outcome) in enumerate(batches, len(self.shards)):
            parts.append((first, count, np.full(len(first), number, np.int32), row, outcome))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        columns = [column[order] for column in columns]
        first, count = columns[:2]
        if np.any((first + count)[:-1] > first[1:]):
            columns = list(_resolved(*columns))
        return Index(self.shards, *columns)

    def __len__(self) -> int:
        return int(self.count.sum())

    @property
    def ranges(self) -> Ranges:
        """All ids."""
        return Ranges.joined(self.first, self.count)

    def where(self, chosen: np.ndarray | slice) -> Index:
        """Return the runs at positions, or for which a mask (k,) holds."""
        return Index(self.shards, *(column[chosen] for column in self.columns))

    def of(self, *outcomes: Outcome) -> Index:
        """Return the rows with one of these outcomes."""
        return self.where(np.isin(self.outcome, outcomes))

    def below(self, budget: int | None) -> Index:
        """Return the rows whose id is below `budget`."""
        if budget is None:
            return self
        kept = self.where(slice(0, int(np.searchsorted(self.first, budget))))
        return replace(kept, count=np.minimum(kept.count, budget - kept.first))

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return in which run (n,) ids are, and whether each is there."""
        return Ranges(self.first, self.count).find(ids)

    def at(self, ids: np.ndarray) -> Index:
        """Return increasing ids, all of which are here, as an index of their own: a run for each."""
        at, _ = self.find(ids)
        row = self.row[at] + ids - self.first[at]
        one = np.ones(len(ids), np.int64)
        return Index(self.shards, ids, one, self.shard[at], row, self.outcome[at])

    def between(self, start: int, stop: int) -> Index:
        """Return the rows with ids start, ..., stop - 1."""
        low = int(np.searchsorted(self.first + self.count, start, side="right"))
        part = self.below(stop)
        part = part.where(slice(low, None))
        skip = np.maximum(start - part.first, 0)
        return replace(part, first=part.first + skip, count=part.count - skip, row=part.row + skip)

    def by_shard(self) -> Iterator[tuple[Shard, Index]]:
        """Yield each shard that holds some of the rows, with these."""
        order = np.argsort(self.shard, kind="stable")
        cuts = np.flatnonzero(np.diff(self.shard[order])) + 1
        for part in np.split(order, cuts) if len(order) else []:
            yield self.shards[self.shard[part[0]]], self.where(part)

    def column(self, name: str) -> np.ndarray:
        """Return one column of all rows (n, ...), by id, as it was written."""
        parts, ids = [], []
        for shard, found in self.by_shard():
            low, high = int(found.row[0]), int(found.row[-1] + found.count[-1])
            read = shard.hashes if name == "hash" else partial(shard.column, name)
            parts.append(read(low, high)[expand(found.row - low, found.count)])
            ids.append(expand(found.first, found.count))
        if not parts:
            return np.zeros((0, 0))
        whole = np.concatenate(parts)
        return whole if len(parts) == 1 else whole[np.argsort(np.concatenate(ids), kind="stable")]


def _resolved(
    first: np.ndarray, count: np.ndarray, shard: np.ndarray, row: np.ndarray, outcome: np.ndarray
) -> Columns:
    """Return runs without overlap: of overlapping ones an ok run counts, then that of the later shard.

    All are cut where one of them begins or ends; of the pieces with the same ids one is kept.
    """
    edges = np.unique(np.concatenate([first, first + count]))
    low, high = np.searchsorted(edges, first), np.searchsorted(edges, first + count)
    run, piece = np.repeat(np.arange(len(first)), high - low), expand(low, high - low)
    order = np.lexsort((shard[run], outcome[run] == Outcome.OK, piece))
    order = order[np.append(piece[order][1:] != piece[order][:-1], True)]
    run, piece = run[order], piece[order]
    begin, size = edges[piece], (edges[1:] - edges[:-1])[piece]
    rows = row[run] + begin - first[run]
    return _merged(begin, size, shard[run], rows, outcome[run])


def _merged(
    first: np.ndarray, count: np.ndarray, shard: np.ndarray, row: np.ndarray, outcome: np.ndarray
) -> Columns:
    """Return runs of which none continues the one before."""
    new = (np.diff(first) != count[:-1]) | (np.diff(row) != count[:-1])
    new |= (np.diff(shard) != 0) | (np.diff(outcome) != 0)
    starts = np.append(0, np.flatnonzero(new) + 1)
    return (
        *(first[starts], np.add.reduceat(count, starts)),
        *(shard[starts], row[starts], outcome[starts]),
    )
