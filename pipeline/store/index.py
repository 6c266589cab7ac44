"""Which row of which shard counts for each id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.store.rows import winners
from pipeline.store.shard import Shard


@dataclass(frozen=True, eq=False)
class Index:
    """One entry per stored id, in id order: `ids`, `outcome`, and where the row is, all (n,)."""

    shards: tuple[Shard, ...] = ()
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    outcome: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    shard: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # in `shards`
    row: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # in its shard

    def with_shards(self, new: list[Shard]) -> Index:
        """Return the index of these shards and later ones."""
        ids, outcome = [self.ids], [self.outcome]
        shard, row = [self.shard], [self.row]
        for number, one in enumerate(new, len(self.shards)):
            ids.append(one.read("id"))
            outcome.append(one.read("outcome"))
            shard.append(np.full(len(one), number, np.int32))
            row.append(np.arange(len(one), dtype=np.int32))
        columns = [np.concatenate(parts) for parts in (ids, outcome, shard, row)]
        best = winners(columns[0], columns[1])
        return Index((*self.shards, *new), *(column[best] for column in columns))

    def below(self, budget: int | None) -> slice:
        """Return the entries whose id is below `budget`."""
        return slice(0, len(self.ids) if budget is None else int(np.searchsorted(self.ids, budget)))

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (n,) of ids in this index and whether each is there."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return at, self.ids[at] == ids

    def hashes(self, entries: np.ndarray) -> np.ndarray:
        """Return the row hashes (n, 2) of entries (positions, increasing)."""
        return self._column("hash", entries, np.zeros((len(entries), 2), np.uint64))

    def theta(self, entries: np.ndarray, parameters: int) -> np.ndarray:
        """Return the parameters (n, D) of entries (positions, increasing)."""
        return self._column("theta", entries, np.zeros((len(entries), parameters)))

    def _column(self, name: str, entries: np.ndarray, room: np.ndarray) -> np.ndarray:
        for shard, found in self.by_shard(entries):
            room[np.searchsorted(entries, found)] = shard.read(name)[self.row[found]]
        return room

    def by_shard(self, entries: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
        """Yield each shard that holds some of the entries (positions, increasing) with those."""
        order = np.argsort(self.shard[entries], kind="stable")
        entries = entries[order]
        cuts = np.flatnonzero(np.diff(self.shard[entries])) + 1
        for part in np.split(entries, cuts) if len(entries) else []:
            yield self.shards[self.shard[part[0]]], part
