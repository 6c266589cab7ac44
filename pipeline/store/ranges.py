"""Sorted ids as ranges: the missing ids of a budget of 10^8 take a few numbers, not 800 MB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


def expand(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return first_0, first_0 + 1, ... (count_0 numbers), first_1, ... as one array."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(first - (ends - count), count) + np.arange(total)


@dataclass(frozen=True, eq=False)
class Ranges:
    """Increasing ids, held as ranges `first[k]`, ..., `first[k] + count[k] - 1` that neither touch nor overlap.

    A position is the number of an id among them.
    """

    first: np.ndarray  # (k,)
    count: np.ndarray  # (k,), none is 0

    @classmethod
    def of(cls, ids: np.ndarray) -> Ranges:
        """Return increasing ids (n,) as ranges."""
        starts = np.flatnonzero(np.diff(ids, prepend=-2) != 1)
        return cls(ids[starts].astype(np.int64), np.diff(np.append(starts, len(ids))))

    @classmethod
    def joined(cls, first: np.ndarray, count: np.ndarray) -> Ranges:
        """Return disjoint ranges in any order, those that touch as one."""
        order = np.argsort(first[count > 0], kind="stable")
        first, count = first[count > 0][order], count[count > 0][order]
        starts = np.flatnonzero(np.append(True, first[1:] != (first + count)[:-1])[: len(first)])
        return cls(first[starts], np.add.reduceat(count, starts) if len(starts) else count)

    @cached_property
    def ends(self) -> np.ndarray:
        """Positions (k,) behind the last id of each range."""
        return np.cumsum(self.count)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def with_ids(self, other: Ranges) -> Ranges:
        """Return these ids and others, none of which is among these."""
        first = np.concatenate([self.first, other.first])
        return Ranges.joined(first, np.concatenate([self.count, other.count]))

    def gaps(self, start: int, stop: int) -> Ranges:
        """Return the ids start, ..., stop - 1 that are not among these."""
        edges = np.append(start, self.first + self.count), np.append(self.first, stop)
        return Ranges.joined(edges[0], edges[1] - edges[0])

    def part(self, start: int, stop: int) -> Ranges:
        """Return the ids at the positions start, ..., stop - 1."""
        stop = min(stop, len(self))
        if start >= stop:
            return Ranges(self.first[:0], self.count[:0])
        low, high = np.searchsorted(self.ends, (start, stop - 1), side="right")
        first, count = self.first[low : high + 1].copy(), self.count[low : high + 1].copy()
        count[-1] -= self.ends[high] - stop
        skip = start - (self.ends[low] - self.count[low])
        first[0], count[0] = first[0] + skip, count[0] - skip
        return Ranges(first, count)

    def ids(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the ids at the positions start, ..., stop - 1, or all of them."""
        part = self.part(start, len(self) if stop is None else stop)
        return expand(part.first, part.count)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return in which range (n,) ids are, and whether (n,) they are among these."""
        if not len(self.first):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        at = np.maximum(np.searchsorted(self.first, ids, side="right") - 1, 0)
        return at, (ids >= self.first[at]) & (ids < self.first[at] + self.count[at])

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Return the positions (n,) of ids that are all among these."""
        at, _ = self.find(ids)
        return self.ends[at] - self.count[at] + ids - self.first[at]

    def _fresh(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how many keys `id // size` begin in each range, and whether its first began in the one before."""
        low, high = self.first // size, (self.first + self.count - 1) // size
        shared = np.append(False, low[1:] == high[:-1])[: len(low)]
        return high - low + 1 - shared, shared

    def keys(self, size: int) -> int:
        """Return the number of different keys `id // size`."""
        return int(self._fresh(size)[0].sum())

    def key_positions(self, size: int, which: np.ndarray) -> np.ndarray:
        """Return the positions where the keys with these numbers begin; one behind the last key is the end."""
        fresh, shared = self._fresh(size)
        ends = np.cumsum(fresh)
        if not len(ends):
            return np.zeros(len(which), np.int64)
        at = np.minimum(np.searchsorted(ends, which, side="right"), len(ends) - 1)
        key = self.first[at] // size + which - (ends - fresh)[at] + shared[at]
        inside = np.maximum(key * size - self.first[at], 0)
        return (self.ends - self.count)[at] + np.minimum(inside, self.count[at])
