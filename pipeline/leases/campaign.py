"""From the first process that comes to the last that leaves: plan, leases, finish, all in one folder.

    STORE/leases/BUDGET/    plan.json, one card per living process, one link per lease, what each process spent

Making the plan and finishing are leases themselves. Who makes the plan, and who finishes, is the store's driver
for that time: it holds the lock and adopts the sessions that are there.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pipeline.leases.lease import Board, Holder, Lost
from pipeline.leases.member import Member
from pipeline.leases.plan import Plan
from pipeline.leases.work import LOOKS, LeasedWork
from pipeline.simulation.ledger import wanted
from pipeline.stop import Stop
from pipeline.store import LockedError, Outcome, Store

PLAN, FINISH = "plan", "finish"
T = TypeVar("T")
POLL = 0.05, 10.0  # seconds between two looks, the first and the longest


@dataclass(frozen=True)
class Spent:
    """What a process, or all of them, spent: the fields are those of `SimulateResult`."""

    simulated: int = 0
    workers: int = 0
    busy: float = 0.0
    seconds: float = 0.0


class Campaign:
    """One budget of one store, simulated by all who come."""

    def __init__(
        self, store: Store, budget: int, term: float, key: int, source_digest: str
    ) -> None:
        self.store, self.budget, self.term, self.key = store, budget, term, key
        self.source_digest = source_digest
        self.folder = store.path / "leases" / str(budget)
        self.file = self.folder / "plan.json"
        self.board = Board(self.folder, term)

    def complete(self, again: tuple[Outcome, ...] = ()) -> bool:
        """Whether all rows are there, and none has one of these outcomes."""
        return not len(wanted(self.store, self.budget, again))

    def plan(self, blocks: int, again: tuple[Outcome, ...], stop: Stop) -> Plan | None:
        """Return the plan, made by whoever comes first; None if stopped, or if all is over meanwhile."""
        pause = POLL[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        while not stop.requested and self.folder.exists():
            with suppress(FileNotFoundError):
                return Plan.read(self.file, self.source_digest)
            if not self._fulfil(PLAN, lambda: self._make(blocks, again)):
                pause = _wait(pause, self.term)
        return None

    def _make(self, blocks: int, again: tuple[Outcome, ...]) -> bool:
        if not self.file.exists():
            self._adopt()
            ids = wanted(self.store, self.budget, again)
            if len(ids):
                Plan.of(ids, self.key, blocks, again).write(self.file, self.source_digest)
            else:  # others finished while we came
                self._remove()
        return True

    def lasts(self, plan: Plan) -> bool:
        """Whether nobody has finished; another campaign may have begun since, with a plan of its own."""
        return plan.lies_in(self.file)

    def finish(self, plan: Plan, stop: Stop) -> Spent | None:
        """Wait until every block is done, put what is left into shards, and end the campaign.

        Returns what all spent, to the one who finished; to the others None, also when there is work to take over.
        """
        pause = POLL[0]
        while not stop.requested and self.lasts(plan):
            done, work = self._state(plan)
            if work:
                return None
            if done and (total := self._fulfil(FINISH, lambda: self._finish(plan))):
                return total
            pause = _wait(pause, self.term)
        return None

    def has_work(self, plan: Plan) -> bool:
        """Whether a block is free or its lease expired."""
        return self._state(plan)[1]

    def _state(self, plan: Plan) -> tuple[bool, bool]:
        """Return whether all blocks are done, and whether there is work to be had."""
        taken, done = self.board.look()
        blocks = {name: g for name, g in taken.items() if name.isdecimal() and name not in done}
        complete = sum(name.isdecimal() for name in done)
        if complete + len(blocks) < len(plan):
            return False, self.lasts(plan)
        watched = random.sample(list(blocks.items()), min(LOOKS, len(blocks)))
        return complete == len(plan), any(self.board.expired(watched))

    @contextmanager
    def member(self, plan: Plan) -> Iterator[tuple[Holder, Member, LeasedWork]]:
        """Take part: a session of the store, a card, and work that takes leases; `Lost` if all is over."""
        member = Member(self.store)
        home = member.spool_directory
        with Holder(self.folder, self.term, home.name, home) as holder, member:
            if not self.lasts(plan):
                raise Lost(f"{self.folder} is another campaign's: all of ours is done")
            yield holder, member, LeasedWork(plan, self.key, holder, member)

    def note(self, name: str, spent: Spent) -> None:
        """Leave word of what a process spent, unless others took it for dead and finished."""
        partial = self.folder / f".{name}.spent.partial"
        with suppress(FileNotFoundError):
            partial.write_text(json.dumps(asdict(spent)), encoding="utf-8")
            partial.rename(self.folder / f"{name}.spent")

    def _fulfil(self, name: str, work: Callable[[], T]) -> T | None:
        """Do a duty unless another process has it; if this one dies, another does it."""
        taken, _ = self.board.look()
        generation = taken.get(name, -1)
        if generation >= 0 and not any(self.board.expired([(name, generation)])):
            return None
        try:
            with Holder(self.folder, self.term, Member(self.store).spool_directory.name) as holder:
                return work() if holder.take(name, generation + 1) else None
        except Lost:
            return None
        except FileNotFoundError:
            if self.folder.exists():
                raise
            return None  # all is over: this process slept meanwhile

    def _finish(self, plan: Plan) -> Spent | None:
        if not self.lasts(plan):
            return None
        self._await_others()
        self._adopt()
        return self._end()

    def _await_others(self) -> None:
        """Wait until no living process but this one has a session."""
        pause = POLL[0]
        sessions = self.store.path / "sessions"
        while any((sessions / name).exists() for name in self.board.living()):
            pause = _wait(pause, self.term)

    def _adopt(self) -> None:
        """Put all that sessions left into shards."""
        while True:
            try:
                with self.store.writer():
                    return
            except LockedError:
                time.sleep(1.0)

    def _end(self) -> Spent:
        notes = [path.read_text(encoding="utf-8") for path in self.folder.glob("*.spent")]
        parts: list[dict[str, Any]] = [json.loads(note) for note in notes]
        began = self.file.stat().st_mtime
        seconds = self._remove() - began
        total = {key: sum(part[key] for part in parts) for key in ("simulated", "workers", "busy")}
        return Spent(**total, seconds=max(0.0, seconds))

    def _remove(self) -> float:
        """Take the folder away, at once for all who look; return when, by the file system's clock."""
        over = self.folder.with_name(f".{self.folder.name}-{time.time_ns():x}")
        self.folder.rename(over)
        when = over.stat().st_mtime
        for old in over.parent.glob(".*"):
            shutil.rmtree(old, ignore_errors=True)
        return when


def _wait(pause: float, term: float) -> float:
    """Sleep, and return how long to sleep the next time."""
    time.sleep(pause)
    return min(2 * pause, POLL[1], term / 2)
