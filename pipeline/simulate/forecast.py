"""Forecast of a simulation stage with thousands of workers: its schedule, event by event, without any simulation.

There is a model of each of the two ways to simulate. With Ray one driver hands out blocks to agents in rounds; a
round with m answers from A agents takes

    A * agent + m * message        seconds of the driver,

and every `CHECK_EVERY` seconds it reads A notes and publishes the shards that are full. Without an answer there
is a round every `POLL` seconds, and Ray's own threads take a share `idle` of a core. With leases there is no
driver: each process pays for its leases, all share the metadata server of the file system, and one process
finishes the budget.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.simulate.driver import CHECK_EVERY, POLL
from pipeline.simulate.leases.lease import BEATS
from pipeline.simulate.leases.shared_writer import WHOLE
from pipeline.simulate.work import AGENT_TARGET, block_keys

EVENTS = 200_000  # blocks that are followed; of a longer run a part
BUSY = 0.7  # share of its time from which on a driver or a server is called a bottleneck
CROWDED = 100_000  # entries of a folder


@dataclass(frozen=True)
class Rates:
    """Costs of the operations of a stage, in seconds unless said otherwise.

    They were measured on two cores with a local disk by `python -m benchmarks.schedule`, and `message` on the
    idle machine by `python -m benchmarks.scaling`; `operations` and `agent_memory` are assumptions. Replace
    them by your own measurements.
    """

    idle: float = 8e-3  # driver: share of a core for Ray's threads and the checks of Ray
    agent: float = 1.8e-5  # driver: one poll for answers, for each agent
    message: float = 7e-4  # a block handed out, waited for and counted
    note: float = 1.3e-5  # an agent's note read
    publish: float = 4.1e-3  # a shard checked, renamed and flushed
    lease: float = 5.1e-5  # taken and done, on a local disk
    entry: float = 6.8e-7  # of a folder, listed
    operations: float = 2e4  # of a metadata server in a second
    session: float = 9.8e-4  # adopted by the process that finishes
    fold: float = 3.7e8  # bytes a second read from spools and written into shards
    row_memory: float = 17.0  # bytes of the driver's index
    agent_memory: float = 2e4  # bytes of the driver's bookkeeping


@dataclass(frozen=True)
class Workload:
    """`count` simulations of `seconds` each, with a coefficient of variation, and `row_bytes` of output.

    An agent has at most `per_agent` workers.
    """

    count: int
    seconds: float
    row_bytes: float
    shard_bytes: float = 32 * 2**20
    shard_files: int = 15  # with one output
    variation: float = 0.2
    per_agent: int = 32
    leases: int = 2048
    term: float = 120.0


@dataclass(frozen=True)
class Forecast:
    """The forecast of a schedule; `busy` is the share of its time that the driver or the metadata server works."""

    layout: str
    workers: int
    wall_seconds: float
    efficiency: float  # ideal wall seconds over these
    busy: float
    messages_per_second: float
    rows_per_second: float
    shards: int
    files: int
    entries: int  # of the fullest folder
    memory_bytes: float
    finish_seconds: float
    bottleneck: str

    def values(self) -> dict[str, Any]:
        return asdict(self)


def forecast(work: Workload, workers: int, rates: Rates | None = None) -> dict[str, Forecast]:
    """Return the forecast of both layouts with so many workers."""
    used = rates or Rates()
    return {"ray": ray(work, workers, used), "array": array(work, workers, used)}


# --- Ray: one driver -------------------------------------------------------------------------------


class _Blocks:
    """Blocks of work as `pipeline.simulate.work` cuts them, with the seconds that each takes a process."""

    def __init__(self, work: Workload, workers: int, agents: int) -> None:
        self.work, self.workers = work, workers
        self._most = work.shard_bytes / work.row_bytes
        largest = self._size(work.count, math.ceil(workers / agents))
        self.scale = max(1.0, work.count / largest / max(EVENTS, 20 * agents))
        self.left = round(work.count / self.scale)  # a part represents the whole of a long run
        self._random = np.random.default_rng(0)

    def _size(self, pending: int, processes: int) -> int:
        most = self._most * processes
        return block_keys(pending, self.work.seconds, self.workers, most, processes, AGENT_TARGET)

    def next(self, processes: int) -> tuple[int, float]:
        size = min(self._size(self.left, processes), self.left)
        self.left -= size
        return size, _seconds(self.work, size, self._random)


def _seconds(work: Workload, size: int, random: np.random.Generator) -> float:
    """Draw the seconds of `size` simulations, each log-normal with the workload's mean and variation."""
    spread = math.sqrt(math.log1p(work.variation**2 / size))
    return float(size * work.seconds * random.lognormal(-(spread**2) / 2, spread))


class _DriverModel:
    """One driver that hands out blocks to all agents, as `pipeline.simulate.agent_driver` does."""

    def __init__(self, work: Workload, workers: int, rates: Rates) -> None:
        agents = math.ceil(workers / work.per_agent)
        self.work, self.rates = work, rates
        self.blocks = _Blocks(work, workers, agents)
        self.processes = np.diff(np.linspace(0, workers, agents + 1).astype(int)).tolist()
        self.held: list[list[int]] = [[] for _ in range(agents)]  # simulations of its blocks
        self.free = [0.0] * agents  # when its processes have done what they have
        self.running: list[tuple[float, int, int]] = []  # end of a block, its agent, its size
        self.now = self.driver = 0.0  # time, and seconds of it that the driver worked
        self.checked = self.written = self.published = 0.0
        self.messages = 0

    def run(self) -> None:
        """Follow all blocks to their end."""
        agents, rates = range(len(self.processes)), self.rates
        self.now = self.driver = self._give(agents)
        polls = len(agents) * (rates.agent / POLL + rates.note / CHECK_EVERY)
        waiting = min(1.0, rates.idle + polls)
        while self.running:
            self.driver += max(0.0, self.running[0][0] - self.now) * waiting
            self.now = max(self.now, self.running[0][0])
            spent = self._round()
            self.driver += spent
            self.now += spent

    def _give(self, agents: Iterable[int]) -> float:
        """Hand out blocks to agents that want one, and return the driver's seconds."""
        spent = 0.0
        for agent in agents:
            held, processes = self.held[agent], self.processes[agent]
            while self.blocks.left and (len(held) < 2 or sum(held) < processes):
                spent += self.rates.message
                self._begin(agent, self.now + spent)
        return spent

    def _begin(self, agent: int, when: float) -> None:
        """Begin a block: the agent's processes share it, and are free for what follows when it ends."""
        size, seconds = self.blocks.next(self.processes[agent])
        self.written += size * self.work.row_bytes
        self.messages += 1
        self.held[agent].append(size)
        self.free[agent] = max(self.free[agent], when) + seconds / self.processes[agent]
        end = max(self.free[agent], when + seconds / size)
        heapq.heappush(self.running, (end, agent, size))

    def _round(self) -> float:
        """Receive all answers that are there, hand out new blocks, and return the driver's seconds."""
        answers = []
        while self.running and self.running[0][0] <= self.now:
            _, agent, size = heapq.heappop(self.running)
            self.held[agent].remove(size)
            answers.append(agent)
        spent = len(self.processes) * self.rates.agent
        if self.now - self.checked > CHECK_EVERY:
            spent += self._check()
        return spent + self._give(answers)

    def _check(self) -> float:
        """Read the notes, publish full shards, and return the driver's seconds."""
        self.checked = self.now
        full = (self.written - self.published) // self.work.shard_bytes
        self.published += full * self.work.shard_bytes
        return len(self.processes) * self.rates.note + full * self.rates.publish


def ray(work: Workload, workers: int, rates: Rates) -> Forecast:
    """Return the forecast of one driver, its agents and their workers."""
    model = _DriverModel(work, workers, rates)
    model.run()
    shards = math.ceil(work.count * work.row_bytes / work.shard_bytes)
    return _summed(
        work,
        layout="ray",
        workers=workers,
        wall=model.now * model.blocks.scale,
        finish=_unmerged(work, workers) / rates.fold,
        busy=model.driver / model.now,
        messages=model.messages / model.now,
        shards=shards,
        entries=max(shards, 2 * workers),  # spools of a session; notes with their dumps
        memory=work.count * rates.row_memory + len(model.processes) * rates.agent_memory,
    )


def _unmerged(work: Workload, workers: int) -> float:
    """Return the bytes that the driver merges into shards in the end: half a shard of each worker."""
    written = work.count * work.row_bytes
    return min(min(workers, work.count) * min(work.shard_bytes, written / workers), written) / 2


# --- leases: no driver -----------------------------------------------------------------------------


def array(work: Workload, workers: int, rates: Rates) -> Forecast:
    """Return the forecast of workers that take leases, which one metadata server grants in turn."""
    blocks = min(work.leases, work.count)
    operation = 1 / rates.operations
    beats = workers * BEATS / work.term * operation  # share of the server's time
    # link, is it done?, rename; and one listing when a stretch of free blocks ends, about once in eight
    cost = (3 * operation + blocks * rates.entry / 8) / max(1e-9, 1 - beats)
    wall = _leased_seconds(work, workers, blocks, cost, rates.lease)
    rest = min(work.shard_bytes / WHOLE / 2, work.count * work.row_bytes / workers)
    written = work.count * work.row_bytes
    return _summed(
        work,
        layout="array",
        workers=workers,
        wall=wall,
        finish=min(workers, blocks) * (rates.session + rest / rates.fold) + rates.publish,
        busy=blocks * cost / wall + beats,
        messages=3 * blocks / wall + workers * BEATS / work.term,
        shards=math.ceil(written / work.shard_bytes)
        + min(workers, math.ceil(written * WHOLE / work.shard_bytes)),
        entries=blocks + workers,
        memory=work.count * rates.row_memory,
    )


def _leased_seconds(work: Workload, workers: int, blocks: int, cost: float, lease: float) -> float:
    """Return the wall seconds of all blocks; each takes `cost` of the server and `lease` of its worker."""
    sizes = np.diff(np.linspace(0, work.count, blocks + 1).astype(int)).tolist()
    random = np.random.default_rng(0)
    ready = [0.0] * workers
    server = wall = 0.0
    for size in sizes:
        server = max(server, heapq.heappop(ready)) + cost
        end = server + lease + _seconds(work, size, random)
        wall = max(wall, end)
        heapq.heappush(ready, end)
    return wall


# --- both ------------------------------------------------------------------------------------------


def _summed(
    work: Workload,
    *,
    layout: str,
    workers: int,
    wall: float,
    finish: float,
    busy: float,
    messages: float,
    shards: int,
    entries: int,
    memory: float,
) -> Forecast:
    """Return the forecast with what limits it most."""
    total = wall + finish
    ideal = work.count * work.seconds / min(workers, work.count)
    leased = layout == "array"
    limits = {
        "the metadata server" if leased else "the driver": busy / BUSY,
        "entries of a folder": entries / CROWDED,
        "finishing": finish / (0.2 * total),
        "too few leases": 2 * workers / work.leases if leased else 0.0,
        "too few simulations": 2 * workers / work.count,
    }
    worst = max(limits, key=lambda name: limits[name])
    limit = worst if limits[worst] > 1 else "none"
    return Forecast(layout, workers, total, ideal / total, busy, messages, work.count / total, shards,
                    shards * work.shard_files, entries, memory, finish, limit)  # fmt: skip
