"""The loop of an agent: the driver's loop over its processes, with what it knows of the store and of its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from pipeline.simulate.actor import Report
from pipeline.simulate.driver import Driver
from pipeline.simulate.note import NOTHING, Note, read_note
from pipeline.simulate.process_pool import ProcessPool
from pipeline.simulate.work import Work
from pipeline.store import Outcome, Rows, Schema, Spool

__all__ = [
    "AgentLoop",
    "AgentSession",
    "AgentWork",
    "BlockOrder",
    "Closed",
    "ProcessPool",
    "Report",
]  # fmt: skip


class Agent(Protocol):
    """What the loop needs of its agent, see `pipeline.simulate.agent.SimulationAgent`."""

    name: str
    started: bool

    def begin(self) -> None: ...
    def accept(self, work: Work) -> None: ...
    def ask(self, schema: Schema | None) -> None: ...
    def settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float) -> None: ...
    def note(self, note: Note) -> None: ...


class Closed(Exception):
    """The agent was told to end while its loop waited for the driver."""


@dataclass(eq=False)
class BlockOrder:
    """A block of ids from the driver, and what was settled of it since the last report."""

    ids: np.ndarray
    left: int  # ids without a durable row
    kept: list[np.ndarray] = field(default_factory=list)
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(len(Outcome), int))
    busy: float = 0.0
    asks: bool = False  # the rest waits for `open`

    @classmethod
    def of(cls, ids: Sequence[int]) -> BlockOrder:
        numbers = np.asarray(ids, np.int64)
        return cls(numbers, len(numbers))

    def settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float) -> None:
        self.left -= len(ids)
        self.kept.append(ids)
        self.outcomes += outcomes
        self.busy += busy

    def __contains__(self, number: int) -> bool:
        return bool(self.ids[np.searchsorted(self.ids, number) % len(self.ids)] == number)

    def report(self) -> Report:
        """Return what was settled since the last report."""
        kept = np.concatenate([np.zeros(0, np.int64), *self.kept])
        report = Report(
            rows=len(kept),
            held=self.left if self.asks else 0,
            outcomes=tuple(self.outcomes.tolist()),
            busy=self.busy,
            kept=kept if self.left else None,
        )
        self.kept, self.outcomes, self.busy = [], np.zeros(len(Outcome), int), 0.0
        return report


class AgentWork(Work):
    """The ids of an agent's blocks; counts the seconds of each key for the next report."""

    def __init__(self, key_size: int) -> None:
        super().__init__(np.zeros(0, np.int64), key_size)
        self.learned = (0, 0.0)  # keys, seconds

    def learn(self, keys: int, seconds: float) -> None:
        super().learn(keys, seconds)
        self.learned = (self.learned[0] + keys, self.learned[1] + seconds)


class AgentSession:
    """What the loop knows of the store: where its workers write, as soon as the driver has said it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.schema: Schema | None = None
        self.rows_per_shard = 1
        self.writer = SimpleNamespace(spool_directory=None)
        self.asked: Schema | None = None
        self.example: Rows | None = None
        self._spool: Spool | None = None

    @property
    def is_open(self) -> bool:
        return self.writer.spool_directory is not None

    def knows(self, schema: Schema | None) -> bool:
        """Whether the driver has approved of outputs, or of there being none yet."""
        return self.is_open and (schema is None or self.schema is not None)

    def open(self, directory: Path, schema: Schema | None, rows_per_shard: int) -> None:
        self.schema, self.rows_per_shard = schema, rows_per_shard
        self.writer.spool_directory = directory

    def record(self, rows: Rows) -> None:
        """Keep rows of simulations whose worker died."""
        self.agent.ask(None)  # where they go
        if self._spool is None:
            directory, name = self.writer.spool_directory, f"{self.agent.name}-agent"
            self._spool = Spool(directory, name, self.schema, self.rows_per_shard)
        self._spool.schema = self.schema
        self._spool.append(rows)

    def publish(self) -> None:
        """The driver publishes the shards."""

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()


class AgentLoop(Driver):
    """The driver's loop over the processes of an agent, which ends when it is told to."""

    def __init__(self, agent: Agent, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.agent = agent

    def _unfinished(self) -> bool:
        return True

    def _receive(self) -> None:
        super()._receive()
        self.agent.accept(self.work)

    def _hand_out(self) -> None:
        session = self.session
        if self._probing and not self.blocks and session.schema is not None:
            self._probing, self._schema = False, session.schema
        if not self.agent.started and any(worker.started for worker in self.pool.workers):
            self.agent.begin()
        super()._hand_out()

    def _create(self) -> None:
        self.agent.ask(self._schema)
        self._schema = self.session.schema

    def _settle(self, ids: np.ndarray, outcomes: np.ndarray, busy: float = 0.0) -> None:
        super()._settle(ids, outcomes, busy)
        self.agent.settle(ids, outcomes, busy)

    def _check_and_publish(self) -> None:
        """Note how many rows are durable, and the simulation that has run longest."""
        notes = [read_note(self.pool.note(worker)) for worker in self.pool.workers]
        running = [note for note in notes if note.position != NOTHING]
        longest = min(running, key=lambda note: note.began, default=Note())
        self.agent.note(Note(NOTHING, self.rows, longest.position, longest.key, longest.began))
