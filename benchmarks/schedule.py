"""What the parts of this code cost that the simulated schedule adds up, and whether its sum is right.

`python -m benchmarks.schedule`: measures every rate of `pipeline.simulate.forecast.Rates` that this code
contributes, puts them in, forecasts runs of 10 to 10 000 workers, and compares one forecast with a run: the
driver's core seconds
for each row with two workers. Prints one JSON object. What belongs to a site, the speed of its metadata server,
stays assumed, and the memory of Ray's own bookkeeping.

Times of the driver are core seconds; those of the disk are by the clock, less the time for which this thread was
ready and waited for a core, medians: both hold on a busy machine, as far as its disk is not busy as well.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.leases import clock, cost
from benchmarks.scaling import Measured, run, short_blocks
from pipeline.simulate.forecast import Rates, Workload, forecast
from pipeline.simulate.leases.shared_writer import SharedWriter
from pipeline.simulate.note import Notebook, read_note
from pipeline.simulate.work import Work
from pipeline.store import Rows, Schema, Spool, Store, Writer

REPEATS = 5
AGENTS = 2, 16  # of one worker each, whose simulations sleep
WIDTH = 120  # numbers of 8 bytes in a row: about 1 kB with theta and the rest
SCHEMA = Schema({"x": ("<f8", (WIDTH,))})
SITES = ((10, 1.0), (1000, 1.0), (1000, 60.0), (10_000, 0.1), (10_000, 1.0), (10_000, 60.0))


# --- the driver --------------------------------------------------------------------------------------


def driver() -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return `idle`, `agent` and `message`, and the runs that they are fitted to.

    In a session with A agents the driver's core seconds are

        start(A) + seconds * idle + rounds * A * agent + blocks * message

    Of two runs with equally many agents the difference leaves out the start. One pair has many tiny blocks; the
    others have few, of sleeping simulations.
    """
    run("ray", 10, 1)  # imports
    pairs = [(1, _tiny(1000), _tiny(5000))]
    pairs += [(agents, _sleeping(4, agents), _sleeping(24, agents)) for agents in AGENTS]
    spent = np.array([long.driver - short.driver for _, short, long in pairs])
    rows = [
        (long.seconds - short.seconds, rounds * agents, long.blocks - short.blocks)
        for agents, short, long in pairs
        for rounds in [long.rounds - short.rounds]
    ]
    fitted, _ = nnls(np.array(rows) / spent[:, None], np.ones(len(rows)))
    shown = [{"agents": agents, **asdict(each)} for agents, *found in pairs for each in found]
    return dict(zip(("idle", "agent", "message"), fitted.tolist(), strict=True)), shown


def _tiny(count: int) -> Measured:
    """Run with blocks of a millisecond."""
    with short_blocks():
        return run("ray", count, 1)


def _sleeping(naps: int, agents: int) -> Measured:
    """Run with so many simulations for each agent, which has one worker, of a second's sleep."""
    return run("ray", naps * agents, agents, nap=1.0, cpus=1 / max(AGENTS))


def note(repeats: int = 2000) -> float:
    """Return the core seconds to read a note."""
    with tempfile.TemporaryDirectory() as folder:
        book = Notebook(Path(folder) / "a.note", None)
        book.begin(1)
        return _core(lambda: read_note(Path(folder) / "a.note"), repeats)


def memory(rows: int = 200_000, block: int = 10) -> dict[str, float]:
    """Return bytes of the driver for each row in the index, for each that is pending, and for each block sent."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", {"names": ["a"]}, Schema({"x": ("<f8", ())}))
        with (
            Writer(store) as writer,
            Spool(writer.spool_directory, "a", store.schema, rows // 4) as spool,
        ):
            for ids in np.split(np.arange(rows), 4):
                spool.append(_rows(ids, np.zeros(len(ids))))
        opened = Store.open(store.path)
        index = _held(opened.ids) / rows
    pending: list[Any] = []
    waiting = _held(lambda: pending.append(Work(np.arange(rows), 1)))
    blocks: dict[int, np.ndarray] = {}
    sent = _held(
        lambda: blocks.update((k, pending[0].take(block)) for k in range(rows // block // 2))
    )
    return {"row_memory": index, "pending_row": waiting / rows, "block": sent / len(blocks)}


def _held(make: Callable[[], Any]) -> int:
    """Return the bytes that are held after a call and were not before."""
    tracemalloc.start()
    try:
        made = make()
        held = tracemalloc.get_traced_memory()[0]
        del made
        return held
    finally:
        tracemalloc.stop()


# --- the disk ----------------------------------------------------------------------------------------


def shards() -> dict[str, float]:
    """Return seconds to publish a shard of the default size and to append a row to a spool; files of a shard."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", {"names": ["a"]}, SCHEMA)
        publishing, appending = [], []
        with Writer(store) as writer:
            per = writer.rows_per_shard(SCHEMA)
            rows = _rows(np.arange(per), _draws(per))
            for number in range(REPEATS):
                with Spool(writer.spool_directory, str(number), SCHEMA, per) as spool:
                    spool.append(_shifted(rows, number * per))
                publishing.append(clock(writer.publish))
            with Spool(writer.spool_directory, "one", SCHEMA, per) as spool:
                one = rows.take(np.arange(1))
                for number in range(100):
                    row = _shifted(one, REPEATS * per + number)
                    appending.append(clock(partial(spool.append, row)))
        first = next((store.path / "shards").iterdir())
        return {
            "publish": statistics.median(publishing),
            "append": statistics.median(appending),
            "rows_per_shard": per,
            "shard_files": sum(path.is_file() for path in first.rglob("*")),
        }


def adoption(sessions: int = 40, few: int = 1, many: int = 1000) -> dict[str, float]:
    """Return seconds to adopt a session that is nearly empty, and bytes per second of larger ones."""
    small, large = (
        statistics.median(_adopt(sessions, rows) for _ in range(3)) for rows in (few, many)
    )
    size = sessions * (many - few) * (8 * WIDTH + 40)
    return {"session": small / sessions, "fold": size / (large - small)}


def _adopt(sessions: int, rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", {"names": ["a"]}, SCHEMA)
        for number in range(sessions):
            writer = SharedWriter(store)
            writer.acquire()
            ids = np.arange(number * rows, (number + 1) * rows)
            with Spool(writer.spool_directory, "a", SCHEMA, 10**6) as spool:
                spool.append(_rows(ids, _draws(rows)))
        return clock(lambda: Writer(store).__enter__().release())


def _draws(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, WIDTH))


def _rows(ids: np.ndarray, x: np.ndarray) -> Rows:
    n = len(ids)
    return Rows(ids, np.zeros((n, 1)), {"x": x}, {}, np.zeros(n, np.uint8), np.zeros(n, np.float32))


def _shifted(rows: Rows, start: int) -> Rows:
    return replace(rows, ids=np.arange(start, start + len(rows)))


def _core(call: Callable[[], Any], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats


# --- the forecast ------------------------------------------------------------------------------------


def compared(
    rates: Rates, counts: tuple[int, int] = (200, 1000), seconds: float = 0.05
) -> dict[str, float]:
    """Return core seconds of the driver for each row of a run with two workers, and of its forecast.

    The difference of two runs: a forecast begins when the workers are there.
    """
    few, many = (run("ray", count, 2, nap=seconds, cpus=0.5) for count in counts)
    told = [
        forecast(Workload(count, seconds, 60.0, variation=0.05), 2, rates)["ray"]
        for count in counts
    ]
    walls = [each.wall_seconds - each.finish_seconds for each in told]
    rows = counts[1] - counts[0]
    work_of = [each.busy * wall for each, wall in zip(told, walls, strict=True)]
    return {
        "row_us": 1e6 * (many.driver - few.driver) / rows,
        "row_us_forecast": 1e6 * (work_of[1] - work_of[0]) / rows,
        "seconds": many.seconds - few.seconds,
        "seconds_forecast": walls[1] - walls[0],
    }


def forecasts(rates: Rates) -> list[dict[str, Any]]:
    """Return what runs of ten minutes and more come to, of rows of 1 kB."""
    rows = []
    for workers, seconds in SITES:
        count = int(workers * max(10, 600 / seconds))
        told = forecast(
            Workload(count, seconds, 1000.0, leases=min(60_000, 20 * workers)), workers, rates
        )
        rows.append({"workers": workers, "seconds": seconds, **{
            layout: {key: round(value, 3) if isinstance(value, float) else value
                     for key, value in each.values().items()
                     if key in ("efficiency", "busy", "messages_per_second", "entries", "finish_seconds",
                                "memory_bytes", "bottleneck")}
            for layout, each in told.items()}})  # fmt: skip
    return rows


def main() -> None:
    """Measure, forecast, compare, print."""
    load = os.getloadavg()[0]
    leases, disk, held, adopted = cost(), shards(), memory(), adoption()
    fitted, runs = driver()
    measured = {
        **fitted,
        "note": note(),
        "publish": disk["publish"],
        "lease": leases["lease_us"] / 1e6,
        "entry": leases["look_us_per_entry"] / 1e6,
        "session": adopted["session"],
        "fold": adopted["fold"],
        "row_memory": held["row_memory"],
    }
    rates = replace(Rates(), **measured)
    most = max((found["blocks"] / found["driver"] for found in runs), default=0.0)
    result = {
        "measured": measured,
        "assumed": {name: value for name, value in asdict(rates).items() if name not in measured},
        "units_per_core_second": most,
        "rows_per_second_published": disk["rows_per_shard"] / disk["publish"],
        "append_us": 1e6 * disk["append"],
        "shard_files": disk["shard_files"],
        "pending_row_bytes": held["pending_row"],
        "block_bytes": held["block"],
        "two_workers": compared(rates),
        "forecasts": forecasts(rates),
        "runs": runs,
        "load": [load, os.getloadavg()[0]],
    }
    print(json.dumps({"benchmark": "schedule", **result}))


if __name__ == "__main__":
    main()
