"""What a schedule would come to with thousands of workers: event by event, without any work.

Two models, of the two ways to share simulations. With Ray one driver hands out units in rounds; a round with m
answers from W workers takes

    W * worker + m * message        seconds of the driver,

and every `LOOK` seconds it reads W notes and publishes the shards that are full; without an answer there is a
round every `POLL` seconds, and Ray's own threads take a share `idle` of a core. With leases there is no driver;
each process pays for its leases, all of them share the file system's metadata server, and one finishes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.leases.lease import BEATS
from pipeline.leases.member import WHOLE
from pipeline.simulation.session import LOOK, POLL
from pipeline.simulation.work import LEAST, SLOW, TARGET

EVENTS = 200_000  # units that are followed, of more
BUSY = 0.7  # a share of its time at which a driver or a server is called a bottleneck
CROWDED = 100_000  # entries of a folder


@dataclass(frozen=True)
class Rates:
    """What the parts of this code cost, in seconds unless said otherwise.

    Measured on two cores with a local disk, by `python -m benchmarks.schedule` and, `message`, on the idle machine
    by `python -m benchmarks.scaling`. Assumed: `operations` and `worker_memory`. Put your own in.
    """

    idle: float = 8e-3  # driver: share of a core that Ray's threads and our looks at it take
    worker: float = 1.8e-5  # driver: one look for answers, for each worker
    message: float = 7e-4  # a unit handed out, waited for and booked
    note: float = 1.3e-5  # a worker's note read
    publish: float = 4.1e-3  # a shard checked, renamed and flushed
    lease: float = 5.1e-5  # taken and done, on a local disk
    entry: float = 6.8e-7  # of a folder, listed
    operations: float = 2e4  # of a metadata server in a second
    session: float = 9.8e-4  # adopted by the one who finishes
    fold: float = 3.7e8  # bytes a second read from spools and written into shards
    row_memory: float = 17.0  # bytes of the driver's index
    worker_memory: float = 2e4  # bytes of the driver's bookkeeping


@dataclass(frozen=True)
class Workload:
    """`count` simulations of `seconds` each, with a coefficient of variation, and `row_bytes` of output."""

    count: int
    seconds: float
    row_bytes: float
    shard_bytes: float = 32 * 2**20
    shard_files: int = 15  # with one output
    variation: float = 0.2
    leases: int = 2048
    term: float = 120.0


@dataclass(frozen=True)
class Forecast:
    """What a schedule comes to; `busy` is the share of its time that the one shared part works."""

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
    """Return what both layouts come to with so many workers."""
    used = rates or Rates()
    return {"ray": ray(work, workers, used), "array": array(work, workers, used)}


# --- Ray: one driver -------------------------------------------------------------------------------


class _Units:
    """Units of work as the driver cuts them, with the seconds that each takes."""

    def __init__(self, work: Workload, workers: int) -> None:
        self.work, self.workers = work, workers
        whole = max(1.0, min(TARGET / max(work.seconds, 1e-9), work.shard_bytes / work.row_bytes))
        self.scale = max(1.0, work.count / whole / max(EVENTS, 20 * workers))
        self.left = round(work.count / self.scale)  # a part stands for the whole of a long run
        self._random = np.random.default_rng(0)

    def next(self) -> tuple[int, float]:
        each = max(self.work.seconds, 1e-9)
        fair = max(self.left / (2 * self.workers), LEAST / each)
        per_shard = self.work.shard_bytes / self.work.row_bytes
        size = int(max(1, min(TARGET / each, fair, per_shard, self.left)))
        self.left -= size
        return size, _seconds(self.work, size, self._random)


def _seconds(work: Workload, size: int, random: np.random.Generator) -> float:
    """Draw the seconds of `size` simulations, each log-normal with the workload's mean and variation."""
    spread = math.sqrt(math.log1p(work.variation**2 / size))
    return float(size * work.seconds * random.lognormal(-(spread**2) / 2, spread))


def ray(work: Workload, workers: int, rates: Rates) -> Forecast:
    """Let one driver feed all workers, as `pipeline.simulation.session` does."""
    units, depth = _Units(work, workers), 1 if work.seconds > SLOW else 2
    queues: list[deque[float]] = [deque() for _ in range(workers)]
    running: list[tuple[float, int]] = []  # end of a unit, its worker
    idle = [True] * workers
    now = driver = 0.0
    looked = written = published = 0.0
    messages = 0

    def give(worker: int, when: float) -> None:
        nonlocal written, messages
        size, seconds = units.next()
        written += size * work.row_bytes
        messages += 1
        if idle[worker]:
            idle[worker] = False
            heapq.heappush(running, (when + seconds, worker))
        else:
            queues[worker].append(seconds)

    for _ in range(depth):
        for worker in range(workers):
            if units.left:
                now += rates.message
                give(worker, now)
    driver = now
    waiting = rates.idle + workers * (rates.worker / POLL + rates.note / LOOK)
    while running:
        driver += max(0.0, running[0][0] - now) * min(1.0, waiting)
        now = max(now, running[0][0])
        answers = []
        while running and running[0][0] <= now:
            ended, worker = heapq.heappop(running)
            answers.append(worker)
            if queues[worker]:
                heapq.heappush(running, (ended + queues[worker].popleft(), worker))
            else:
                idle[worker] = True
        spent = workers * rates.worker
        if now - looked > LOOK:
            looked = now
            full = (written - published) // work.shard_bytes
            published += full * work.shard_bytes
            spent += workers * rates.note + full * rates.publish
        for worker in answers:
            spent += rates.message
            if units.left:
                give(worker, now + spent)
        driver += spent
        now += spent
    shards = math.ceil(work.count * work.row_bytes / work.shard_bytes)
    memory = work.count * rates.row_memory + workers * rates.worker_memory
    entries = max(shards, 2 * workers)  # spools of a session, notes with their dumps
    return _summed("ray", work, workers, now * units.scale, _folding(work, workers) / rates.fold,
                   driver / now, messages / now, shards, entries, memory)  # fmt: skip


def _folding(work: Workload, workers: int) -> float:
    """Return the bytes that the driver still has to put into shards in the end: half a shard of each worker."""
    written = work.count * work.row_bytes
    return min(min(workers, work.count) * min(work.shard_bytes, written / workers), written) / 2


# --- leases: no driver -----------------------------------------------------------------------------


def array(work: Workload, workers: int, rates: Rates) -> Forecast:
    """Let every worker take leases, as `pipeline.leases` does; one metadata server serves them in turn."""
    blocks = min(work.leases, work.count)
    sizes = np.diff(np.linspace(0, work.count, blocks + 1).astype(int)).tolist()
    random = np.random.default_rng(0)
    operation = 1 / rates.operations
    beats = workers * BEATS / work.term * operation  # share of the server's time
    server, served, operations = 0.0, 0.0, 0
    ready = [(0.0, worker) for worker in range(workers)]
    wall = 0.0
    for size in sizes:
        when, worker = heapq.heappop(ready)
        # link, is it done?, rename; and one listing when a stretch of free blocks ends, about once in eight
        cost = (3 * operation + blocks * rates.entry / 8) / max(1e-9, 1 - beats)
        server = max(server, when) + cost
        served += cost
        operations += 3
        end = server + rates.lease + _seconds(work, size, random)
        wall = max(wall, end)
        heapq.heappush(ready, (end, worker))
    rest = min(work.shard_bytes / WHOLE / 2, work.count * work.row_bytes / workers)
    finish = min(workers, blocks) * (rates.session + rest / rates.fold) + rates.publish
    shards = math.ceil(work.count * work.row_bytes / work.shard_bytes) + min(
        workers, math.ceil(work.count * work.row_bytes * WHOLE / work.shard_bytes)
    )
    memory = work.count * rates.row_memory
    rate = operations / wall + workers * BEATS / work.term
    busy = served / wall + beats
    return _summed(
        "array", work, workers, wall, finish, busy, rate, shards, blocks + workers, memory
    )


def _summed(
    layout: str,
    work: Workload,
    workers: int,
    wall: float,
    finish: float,
    busy: float,
    messages: float,
    shards: int,
    entries: int,
    memory: float,
) -> Forecast:
    total = wall + finish
    ideal = work.count * work.seconds / min(workers, work.count)
    limits = {
        "the driver" if layout == "ray" else "the metadata server": busy / BUSY,
        "entries of a folder": entries / CROWDED,
        "finishing": finish / (0.2 * total),
        "too few leases" if layout == "array" else "": 2 * workers / work.leases
        if layout == "array"
        else 0,
        "too few simulations": 2 * workers / work.count,
    }
    worst = max(limits, key=lambda name: limits[name])
    limit = worst if limits[worst] > 1 else "none"
    return Forecast(layout, workers, total, ideal / total, busy, messages, work.count / total, shards,
                    shards * work.shard_files, entries, memory, finish, limit)  # fmt: skip
