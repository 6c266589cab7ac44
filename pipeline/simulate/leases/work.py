"""Work that is taken in leased blocks."""

from __future__ import annotations

import random

import numpy as np

from pipeline.simulate.leases.lease import LeaseHolder
from pipeline.simulate.leases.plan import BlockPlan
from pipeline.simulate.leases.shared_writer import SharedWriter
from pipeline.simulate.work import Work

SAMPLE = 64  # leases examined in one search for an expired one


def name_of(block: int) -> str:
    """Return the name of a block's files."""
    return f"{block:06d}"


class LeasedWork(Work):
    """The ids of the blocks that this process holds; `more` takes another block when no ids are pending.

    Blocks are taken in order, beginning at a random free one, so that most rows of a process are neighbours and
    two processes seldom want the same block.
    """

    def __init__(
        self, plan: BlockPlan, key_size: int, holder: LeaseHolder, writer: SharedWriter
    ) -> None:
        super().__init__(np.zeros(0, np.int64), key_size)
        self.plan, self.holder, self.writer = plan, holder, writer
        self.leases = 0  # taken
        self._left: dict[int, int] = {}  # for each block held, how many ids are not durable
        self._next = len(plan)  # the block to try first; none yet

    def more(self) -> bool:
        self.holder.check()
        while not len(self) and (ids := self._take_block()) is not None:
            self.give_back(ids)
        return bool(len(self))

    def keep(self, ids: np.ndarray) -> None:
        """Learn that the rows of these ids are durable; blocks without others are done."""
        blocks, counts = np.unique(self.plan.blocks_of(ids), return_counts=True)
        for block, count in zip(blocks.tolist(), counts.tolist(), strict=True):
            self._settle(block, count)

    def _settle(self, block: int, count: int) -> None:
        self._left[block] -= count
        if not self._left[block]:
            del self._left[block]
            self.holder.done(name_of(block))

    def _take_block(self) -> np.ndarray | None:
        """Take a lease and return the ids still to be simulated; None if no block is free."""
        if self._next < len(self.plan) and self.holder.take(name_of(self._next)):
            return self._begin(self._next)
        while True:
            taken, done = self.holder.read()
            free = [
                b for b in range(len(self.plan)) if (n := name_of(b)) not in taken and n not in done
            ]
            if not free:
                return self._take_over({name: g for name, g in taken.items() if name not in done})
            block = random.choice(free)
            if self.holder.take(name_of(block)):
                return self._begin(block)
            if not self.holder.heartbeat.exists():  # the budget is complete
                return None

    def _begin(self, block: int) -> np.ndarray:
        self._next = block + 1
        self.leases += 1
        ids = self.plan.block(block)
        self._left[block] = len(ids)
        return ids

    def _take_over(self, taken: dict[str, int]) -> np.ndarray | None:
        """Take over an expired lease, and with it the session of its owner."""
        held = [
            item
            for item in taken.items()
            if item[0].isdecimal() and item[0] not in self.holder.held
        ]
        for name, owner in self.holder.expired(random.sample(held, min(SAMPLE, len(held)))):
            self.writer.take_session(owner)
            if not self.holder.take(name, taken[name] + 1):
                continue
            ids = self._begin(int(name))
            there = self.writer.durable(ids, self.plan.again)
            if len(there):
                self._settle(int(name), len(there))
            return np.setdiff1d(ids, there)
        return None
