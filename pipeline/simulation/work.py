"""What is still to be simulated, cut into units by measured run time."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean

import numpy as np

TARGET = 1.0  # seconds of work in one message
LEAST = 0.05  # seconds; towards the end units get smaller, but not so small that messages dominate
SLOW = 2.0  # seconds; work this long is not queued behind other work
MEMORY = 8  # reports that the estimate of run time rests on


class Work:
    """Pending ids, sorted; ids of one block stay together.

    Args:
        ids: what is missing, (n,) sorted.
        block: ids that are computed together; 1 unless the simulator is batched.
    """

    def __init__(self, ids: np.ndarray, block: int) -> None:
        self.block = block
        self._chunks = deque([ids] if len(ids) else [])
        self._recent: deque[float] = deque(maxlen=MEMORY)

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def more(self) -> bool:
        """Whether anything is pending; work that comes in portions gets its next one here."""
        return bool(len(self))

    def keep(self, ids: np.ndarray) -> None:
        """Learn that the rows of these ids are durable."""

    @property
    def keys(self) -> int:
        """How many simulations, or blocks, are pending (an upper bound for blocks cut in pieces)."""
        return sum(math.ceil(len(chunk) / self.block) for chunk in self._chunks)

    @property
    def seconds(self) -> float | None:
        """Mean seconds of one simulation or block in the latest reports."""
        return fmean(self._recent) if self._recent else None

    def learn(self, keys: int, seconds: float) -> None:
        """Take a finished unit into the estimate."""
        if keys:
            self._recent.append(seconds / keys)

    def depth(self) -> int:
        """How many units an actor has at a time: two, so that it never waits, unless work is slow."""
        return 1 if (self.seconds or 0.0) > SLOW else 2

    def size(self, workers: int, most: int) -> int:
        """How many keys the next unit should have, of at most `most` rows.

        Towards the end units get smaller, so that all workers finish at about the same time.
        """
        if self.seconds is None:
            return 1
        each = max(self.seconds, 1e-9)
        fair = max(self.keys / (2 * workers), LEAST / each)
        return int(max(1, min(TARGET / each, fair, most / self.block)))

    def take(self, keys: int) -> np.ndarray:
        """Remove and return the ids of the first pending keys, at most `keys` of them."""
        ids = self._chunks.popleft()
        head = ids[: keys * self.block]
        edges = np.flatnonzero(np.diff(head // self.block)) + 1
        cut = int(edges[keys - 1]) if len(edges) >= keys else len(head)
        if cut < len(ids):
            self._chunks.appendleft(ids[cut:])
        return ids[:cut]

    def give_back(self, ids: np.ndarray) -> None:
        """Put ids back, to be simulated next."""
        if len(ids):
            self._chunks.appendleft(ids)
