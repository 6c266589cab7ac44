"""The driver of agents: it sees one answer for minutes of work, and notes of the agents in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.progress import duration
from pipeline.simulate.calls import CallResult, Worker
from pipeline.simulate.death import read_death
from pipeline.simulate.driver import CHECK_EVERY, QUICK, STRAGGLER, Driver, counted
from pipeline.simulate.note import NOTHING, read_note
from pipeline.simulate.store_session import wanted
from pipeline.store import Outcome
from pipeline.store.spool import scan

if TYPE_CHECKING:  # it imports Ray
    from pipeline.simulate.agent_pool import AgentPool

LEAVE = QUICK + 3.0  # seconds that agents get for their last answers


class AgentDriver(Driver):
    """Hands out blocks to agents, each with several processes.

    Arguments:
        again: outcomes whose rows are simulated again.
        arguments: those of `Driver`.
    """

    pool: AgentPool

    def __init__(self, again: tuple[Outcome, ...], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.again = again
        self._reported: dict[str, int] = {}  # rows by agent

    def _handle(self, answer: CallResult) -> None:
        name = answer.worker.name
        if answer.result is not None:
            self._reported[name] = self._reported.get(name, 0) + answer.result.rows
        super()._handle(answer)

    def _receive_last(self) -> None:
        """Ask the agents to answer, where a stop was requested."""
        if not self.blocks:
            return
        self.pool.stop()
        deadline = time.monotonic() + LEAVE
        while self.blocks and time.monotonic() < deadline:
            self._receive()

    def _worker_lost(self, worker: Worker) -> None:
        """Give back the ids of an agent whose rows are not durable, except those that get a row here."""
        self._failed_starts += 1
        ids = [np.zeros(0, np.int64), *(self.blocks.pop(block) for block in worker.blocks)]
        left = np.sort(np.concatenate(ids))
        if len(left) and self.session.exists:
            left = self._without_durable(worker, left)
        folder = self.pool.note(worker).parent
        for path in sorted(folder.glob(f"{worker.name}-*.note")):
            note = read_note(path)
            if note.position != NOTHING:
                left = self._blame(note, *read_death(path), left)
        self.work.give_back(left)
        self._check_starts()

    def _without_durable(self, worker: Worker, ids: np.ndarray) -> np.ndarray:
        """Count those of the ids (n,) that an agent has made durable, and return the others."""
        store, spools = self.session.writer.store, self.session.writer.spool_directory
        self.session.publish()
        _, missing = wanted(store, int(ids[-1]) + 1, self.again).find(ids)
        durable = ~missing
        for path in spools.glob(f"{worker.name}-*.spool"):
            with open(path, "rb") as file:
                for entry in scan(file):
                    durable |= np.isin(ids, entry.ids)
        number = int(durable.sum())
        self._settle(ids[durable], counted(Outcome.OK, number))  # true outcomes are in the store
        self._failed_starts = 0 if number else self._failed_starts
        return ids[~durable]

    def _find_straggler(self) -> str:
        """Read the notes of the agents: how many rows are durable, and which simulation has run longest."""
        notes = {worker.name: read_note(self.pool.note(worker)) for worker in self.pool.workers}
        ahead = [max(0, note.kept - self._reported.get(name, 0)) for name, note in notes.items()]
        self._ahead = sum(ahead)
        running = [note for note in notes.values() if note.position != NOTHING]
        longest = min(running, key=lambda note: note.began, default=None)
        seconds = time.time() - longest.began - CHECK_EVERY if longest else 0.0  # notes may be old
        if longest is None or seconds < max(1.0, STRAGGLER * (self.work.seconds or np.inf)):
            return ""
        return f"simulation {longest.key * self.spec.key_size} runs for {duration(seconds)}"
