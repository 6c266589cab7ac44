"""The ids that are still to be simulated, handed out in blocks whose size follows the measured run time."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean

import numpy as np

from pipeline.store.ranges import Ranges

TARGET = 1.0  # seconds of work in one message
AGENT_TARGET = 60.0  # seconds of work of each process in one message to an agent
PARTS = 8  # blocks that an agent has at most, about, when they are small
LEAST = 0.05  # seconds; towards the end blocks get smaller, but not so small that messages dominate
SLOW = 2.0  # seconds; work this long is not queued behind other work
MEMORY = 8  # reports from which the run time is estimated


def block_keys(
    pending: int,
    seconds: float,
    workers: int,
    most: float,
    processes: int = 1,
    target: float | None = None,
) -> int:
    """Return how many keys the next block should have.

    Towards the end blocks get smaller, so that all workers finish at about the same time.

    Arguments:
        pending: keys that are not handed out yet.
        seconds: run time of one key.
        workers: number of processes that simulate, in all.
        most: keys that one block may have.
        processes: how many of them share the block.
        target: seconds of work in a block; `TARGET` if none.
    """
    seconds = max(seconds, 1e-9)
    parts = 4 if target else 2  # an agent has two long blocks at a time
    fair = max(pending / (parts * workers), LEAST / seconds)
    whole = max((target or TARGET) / seconds, 1)
    return int(max(1, processes // PARTS, min(whole * processes, fair * processes, most)))


def queue_depth(seconds: float) -> int:
    """Return how many blocks a worker has at a time: two, so that it never waits, but one where work is slow."""
    return 1 if seconds > SLOW else 2


class Work:
    """Pending ids, sorted; ids that share a key stay together.

    Arguments:
        ids: the missing ids (n,), sorted, or as ranges.
        key_size: ids that share a key and are computed together; 1 unless the simulator is batched.
        target: seconds of work in one block; `TARGET` if none.
    """

    def __init__(
        self, ids: np.ndarray | Ranges, key_size: int, target: float | None = None
    ) -> None:
        self.key_size, self.target = key_size, target
        self._rest = ids if isinstance(ids, Ranges) else Ranges.of(ids)
        self._taken = 0  # of the rest
        self._returned: deque[np.ndarray] = deque()  # taken before the rest
        self._recent: deque[float] = deque(maxlen=MEMORY)

    def __len__(self) -> int:
        return sum(map(len, self._returned)) + len(self._rest) - self._taken

    def more(self) -> bool:
        """Whether anything is pending; work that comes in leases takes the next lease here."""
        return bool(len(self))

    def keep(self, ids: np.ndarray) -> None:
        """Learn that the rows of these ids are durable."""

    @property
    def keys(self) -> int:
        """How many keys are pending (an upper bound where the ids of a key were cut into pieces)."""
        sizes = [*map(len, self._returned), len(self._rest) - self._taken]
        return sum(math.ceil(size / self.key_size) for size in sizes)

    @property
    def seconds(self) -> float | None:
        """Mean seconds of one key in the latest reports."""
        return fmean(self._recent) if self._recent else None

    def learn(self, keys: int, seconds: float) -> None:
        """Use a finished block for the estimate of the run time."""
        if keys:
            self._recent.append(seconds / keys)

    def depth(self) -> int:
        """How many blocks a worker should have at a time."""
        return 2 if self.target else queue_depth(self.seconds or 0.0)

    def size(self, workers: int, most: int, processes: int = 1) -> int:
        """How many keys the next block should have, of at most `most` rows, for so many of all processes.

        While the run time is not known each process gets one.
        """
        if self.seconds is None:
            return processes
        most_keys = most * processes / self.key_size
        return block_keys(self.keys, self.seconds, workers, most_keys, processes, self.target)

    def take(self, keys: int) -> np.ndarray:
        """Remove and return the ids of the first pending keys, at most `keys` of them."""
        most = keys * self.key_size
        given = self._returned.popleft() if self._returned else None
        head = self._rest.ids(self._taken, self._taken + most) if given is None else given[:most]
        edges = np.flatnonzero(np.diff(head // self.key_size)) + 1
        cut = int(edges[keys - 1]) if len(edges) >= keys else len(head)
        if given is None:
            self._taken += cut
        elif cut < len(given):
            self._returned.appendleft(given[cut:])
        return head[:cut]

    def append(self, ids: np.ndarray) -> None:
        """Put further ids behind those that are pending, in work that began without any."""
        self._returned.append(ids)

    def give_back(self, ids: np.ndarray) -> None:
        """Put ids back, to be taken next."""
        if len(ids):
            self._returned.appendleft(ids)
