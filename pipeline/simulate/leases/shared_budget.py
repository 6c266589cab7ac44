"""A budget that several processes simulate together: its plan, its leases and its end, all in one folder.

    STORE/leases/BUDGET/    plan.json, a heartbeat file of each process, links for leases, what each process spent

Making the plan and finishing the budget are leases themselves. The process that does one of them is the store's
driver meanwhile: it holds the store's lock and adopts the sessions of dead processes.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, TypeVar

from pipeline.errors import DamagedError, LockedError, PipelineError
from pipeline.files import read_document, seal
from pipeline.progress import log
from pipeline.simulate import sources
from pipeline.simulate.leases.lease import LeaseHolder, LeaseLost, LeaseTable
from pipeline.simulate.leases.plan import BlockPlan
from pipeline.simulate.leases.shared_writer import SharedWriter
from pipeline.simulate.leases.work import SAMPLE, LeasedWork
from pipeline.simulate.setup import SimulationCost
from pipeline.simulate.store_session import wanted
from pipeline.stop import Stop
from pipeline.store import Outcome, Store, Writer

PLAN, FINISH = "plan", "finish"  # names of leases, beside those of blocks
T = TypeVar("T")
POLL = 0.05, 10.0  # seconds between two checks, at first and at most


class SharedBudget:
    """One budget of one store.

    Arguments:
        store: the store.
        budget: ids below it are simulated.
        term: seconds without a heartbeat after which leases expire.
        key_size: ids that share a key, see `SimulationSpec`.
        simulator: whose source the plan names.
    """

    def __init__(
        self, store: Store, budget: int, term: float, key_size: int, simulator: Any
    ) -> None:
        self.store, self.budget, self.term, self.key_size = store, budget, term, key_size
        self.simulator, self.source_digest = simulator, simulator.source_digest()
        self.folder = store.path / "leases" / str(budget)
        self.file = self.folder / "plan.json"
        self.lease_table = LeaseTable(self.folder, term)

    def complete(self, again: tuple[Outcome, ...] = ()) -> bool:
        """Whether all rows exist, and none has one of these outcomes."""
        return not len(wanted(self.store, self.budget, again))

    # --- the plan ----------------------------------------------------------------------------

    def plan(self, blocks: int, again: tuple[Outcome, ...], stop: Stop) -> BlockPlan | None:
        """Return the plan, which the first process makes; None if stopped, or if the budget is complete.

        A plan that was made by other code, and that no living process follows, is replaced.
        """
        pause = POLL[0]
        self._make_folder()
        while not stop.requested and self.folder.exists():
            try:
                return BlockPlan.read(self.file, self.source_digest)
            except FileNotFoundError:
                pass
            except DamagedError as error:
                log(f"simulate: {error}; it is replaced when no process works by it")
            except PipelineError:
                if self.lease_table.living():
                    raise
                with suppress(FileNotFoundError):  # another process removed it
                    self._remove()
                self._make_folder()
            if not self._exclusively(PLAN, lambda: self._make_plan(blocks, again)):
                pause = _wait(pause, self.term)
        return None

    def is_current(self, plan: BlockPlan) -> bool:
        """Whether the budget is not finished; later ones of the same size have plans of their own."""
        return plan.is_in(self.file)

    def _make_folder(self) -> None:
        """Make the folder, but not that of a store which was deleted meanwhile."""
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(exist_ok=True)

    def _make_plan(self, blocks: int, again: tuple[Outcome, ...]) -> bool:
        try:
            BlockPlan.read(self.file, self.source_digest)
        except FileNotFoundError:
            self._adopt()
            ids = wanted(self.store, self.budget, again)
            if len(ids):
                sources.record(self.store.path, self.simulator)
                plan = BlockPlan.of(ids, self.key_size, blocks, again)
                plan.write(self.file, self.source_digest)
            else:  # other processes finished the budget meanwhile
                self._remove()
        except DamagedError:  # it is not known which ids are missing: start anew from the store
            self._await_others()
            self._adopt()
            self._remove()
        return True

    # --- taking part -------------------------------------------------------------------------

    def has_work(self, plan: BlockPlan) -> bool:
        """Whether a block is free or its lease has expired."""
        return self._state(plan)[1]

    def _state(self, plan: BlockPlan) -> tuple[bool, bool]:
        """Return whether all blocks are done, and whether there is a block to take."""
        taken, done = self.lease_table.read()
        blocks = {name: g for name, g in taken.items() if name.isdecimal() and name not in done}
        complete = sum(name.isdecimal() for name in done)
        if complete + len(blocks) < len(plan):
            return False, self.is_current(plan)
        examined = random.sample(list(blocks.items()), min(SAMPLE, len(blocks)))
        return complete == len(plan), any(self.lease_table.expired(examined))

    @contextmanager
    def participant(
        self, plan: BlockPlan
    ) -> Iterator[tuple[LeaseHolder, SharedWriter, LeasedWork]]:
        """Start a session of the store and a heartbeat, and yield them with work that takes leases.

        Raises:
            LeaseLost: the budget is finished, or this process has lost its leases.
        """
        writer = SharedWriter(self.store)
        home = writer.spool_directory
        with LeaseHolder(self.folder, self.term, home.name, home) as holder, writer:
            if not self.is_current(plan):
                raise LeaseLost(
                    f"{self.folder} has a later plan: the budget of this one is finished"
                )
            yield holder, writer, LeasedWork(plan, self.key_size, holder, writer)

    def record_cost(self, name: str, cost: SimulationCost) -> None:
        """Record what a process spent, unless the budget was finished without it."""
        partial = self.folder / f".{name}.spent.partial"
        with suppress(FileNotFoundError):
            partial.write_text(seal(asdict(cost)), encoding="utf-8")
            partial.rename(self.folder / f"{name}.spent")

    # --- the end -----------------------------------------------------------------------------

    def finish(self, plan: BlockPlan, stop: Stop) -> SimulationCost | None:
        """Wait until every block is done, merge all rows into shards, and remove the folder.

        Returns what all processes spent, to the process that finished; None to the others, and where an expired
        lease can be taken over.
        """
        pause = POLL[0]
        while not stop.requested and self.is_current(plan):
            done, work = self._state(plan)
            if work:
                return None
            if done and (total := self._exclusively(FINISH, lambda: self._finish(plan))):
                return total
            pause = _wait(pause, self.term)
        return None

    def _exclusively(self, name: str, work: Callable[[], T]) -> T | None:
        """Do work unless another living process does it; if this process dies, another does it."""
        taken, _ = self.lease_table.read()
        generation = taken.get(name, -1)
        if generation >= 0 and not any(self.lease_table.expired([(name, generation)])):
            return None
        own = SharedWriter(self.store).spool_directory.name
        try:
            with LeaseHolder(self.folder, self.term, own) as holder:
                return work() if holder.take(name, generation + 1) else None
        except LeaseLost:
            return None
        except FileNotFoundError:
            if self.folder.exists():
                raise
            return None  # the budget was finished while this process was suspended

    def _finish(self, plan: BlockPlan) -> SimulationCost | None:
        if not self.is_current(plan):
            return None
        self._await_others()
        self._adopt()
        return self._end()

    def _await_others(self) -> None:
        """Wait until no other living process has a session."""
        pause = POLL[0]
        sessions = self.store.path / "sessions"
        while any((sessions / name).exists() for name in self.lease_table.living()):
            pause = _wait(pause, self.term)

    def _adopt(self) -> None:
        """Merge the rows that sessions left into shards."""
        while True:
            try:
                with Writer(self.store):
                    return
            except LockedError:
                time.sleep(1.0)

    def _end(self) -> SimulationCost:
        parts: list[dict[str, Any]] = []
        for path in self.folder.glob("*.spent"):
            with suppress(DamagedError):  # rows do not depend on it
                parts.append(read_document(path))
        began = self.file.stat().st_mtime
        seconds = self._remove() - began
        total = {key: sum(part[key] for part in parts) for key in ("simulated", "workers", "busy")}
        return SimulationCost(**total, seconds=max(0.0, seconds))

    def _remove(self) -> float:
        """Remove the folder, for all processes in one step; return when, by the file system's clock."""
        removed = self.folder.with_name(f".{self.folder.name}-{time.time_ns():x}")
        self.folder.rename(removed)
        when = removed.stat().st_mtime
        for old in removed.parent.glob(".*"):
            shutil.rmtree(old, ignore_errors=True)
        return when


def _wait(pause: float, term: float) -> float:
    """Sleep, and return how long to sleep the next time."""
    time.sleep(pause)
    return min(2 * pause, POLL[1], term / 2)
