"""Merge small shards, so that a store that grew in many small steps has few files.

A shard is small if it has less than a quarter of the target size. Small shards are merged as in a binary
counter: a row is written again each time the size of its shard doubles, until the shard is no longer small.
Where more than 2 % of all rows are in small shards, these are merged with the smallest of the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from pipeline.files import synchronise, writing
from pipeline.store.index import Index
from pipeline.store.reader import without_readers
from pipeline.store.rows import Outcome, Rows, Schema, concatenate
from pipeline.store.shard import MERGED, Shard
from pipeline.store.shard_view import ShardView
from pipeline.store.store import Store

SMALL = 0.25  # of the target size
SHARE = 0.02  # of all rows may be in small shards
LARGEST = 1.25  # of the target size; larger merges become several shards


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard that count."""

    shard: Shard
    index: Index

    @property
    def rows(self) -> int:
        return len(self.index)

    @property
    def row_bytes(self) -> float:
        manifest = self.shard.manifest
        chunks = (stated["size"] for name, stated in manifest.files.items() if "/c/" in name)
        return sum(chunks) / manifest.rows


@dataclass(frozen=True)
class ShardTarget:
    """How large shards should be."""

    rows: int
    bytes: int

    def size(self, *parts: ShardRows) -> float:
        """Return the size of parts as one shard, 1 for the target: ragged outputs are padded to the longest."""
        rows, width = sum(p.rows for p in parts), max(p.row_bytes for p in parts)
        return max(rows / self.rows, rows * width / self.bytes)

    def groups(self, parts: list[ShardRows]) -> list[list[ShardRows]]:
        """Return which parts should become one shard, or a few, none of them small where possible."""
        chosen = self._chosen(parts)
        if len(chosen) < 2:
            return []
        groups: list[list[ShardRows]] = [[]]
        for part in sorted(chosen, key=lambda part: part.shard.manifest.ids):
            if groups[-1] and self.size(*groups[-1], part) > LARGEST:
                groups.append([])
            groups[-1].append(part)
        last = [part for group in groups[-2:] for part in group]
        if self.size(*groups[-1]) < SMALL and self.size(*last) < 2 * LARGEST:
            groups[-2:] = [last]
        return [group for group in groups if len(group) > 1]

    def _chosen(self, parts: list[ShardRows]) -> list[ShardRows]:
        by_size = sorted(parts, key=lambda part: part.rows)
        small = [part for part in by_size if self.size(part) < SMALL]
        large = [part for part in by_size if self.size(part) >= SMALL]
        rows = [part.rows for part in small]
        if not small:
            return []
        if sum(rows) > SHARE * sum(part.rows for part in parts):
            if self.size(*small) >= SMALL:
                return small
            if large:
                return [*small, large[0]]
        before = [0, *accumulate(rows)]
        return small[: max(k + 1 for k in range(len(small)) if rows[k] <= before[k] or not k)]


def compact(store: Store, rows: int, write: Callable[[Rows], None], own_session: Path) -> None:
    """Merge small shards of a locked store, and put aside those whose rows are all in other shards.

    Arguments:
        store: locked by the caller.
        rows: that a shard should have.
        write: publishes rows as a shard.
        own_session: folder of the caller's session; where there are others nothing is done, as they publish
            shards.
    """
    index = store.index
    if not index.shards or any(other != own_session for other in own_session.parent.iterdir()):
        return
    found = dict(index.by_shard())
    parts = [ShardRows(shard, found.get(shard, index.where(slice(0)))) for shard in index.shards]
    parts = [part for part in parts if not _contradicts(part, index)]
    last = index.shards[-1]  # its number must stay the highest
    _put_aside(store, {part.shard for part in parts if not part.rows} - {last})
    parts = [part for part in parts if part.rows]
    target = ShardTarget(rows, store.shard_bytes)
    for group in target.groups(parts):
        pieces = int(np.ceil(target.size(*group) / LARGEST))
        for merged in _merged(group, pieces, store.schema):
            write(merged)
        _put_aside(store, {part.shard for part in group})


def _contradicts(part: ShardRows, index: Index) -> bool:
    """Whether an ok row that does not count differs from the one that does: `verify` must find it."""
    if part.rows == part.shard.manifest.rows:
        return False
    runs = part.shard.runs
    mine = Index((part.shard,), runs.first, runs.length, 0 * runs.row, runs.row, runs.outcome)
    mine = mine.of(Outcome.OK)
    theirs = index.at(mine.ranges.ids())
    return not np.array_equal(mine.column("hash"), theirs.column("hash"))


def _merged(group: list[ShardRows], pieces: int, schema: Schema | None) -> Iterator[Rows]:
    """Yield the rows of several shards that count, compared with their hashes, in that many pieces."""
    batches = [ShardView(part.shard, part.index, schema).with_failures() for part in group]
    rows = concatenate(batches, schema)
    for piece in np.array_split(np.argsort(rows.ids), pieces):
        yield rows.take(piece)


def _put_aside(store: Store, shards: set[Shard]) -> None:
    """Move shards to the folder `merged`: new readers do not see them, earlier readers find them there."""
    if not shards:
        return
    folder = store.path / MERGED
    with writing(folder):
        folder.mkdir(exist_ok=True)
        for shard in sorted(shards, key=lambda shard: shard.path):
            shard.path.rename(folder / shard.path.name)
        synchronise([store.path / "shards", folder])


def sweep(store: Store) -> None:
    """Delete the shards that were put aside, unless a reader has the store open."""
    store.forget()
    folder = store.path / MERGED
    with writing(folder), without_readers(store.path) as alone:
        if alone and folder.exists():
            shutil.rmtree(folder)
