"""How fast the store reads, beside `np.load` of the same bytes, what checking rows costs, how fast it takes them.

Run with `python -m benchmarks.store_read`; prints one JSON object, medians of alternating repeats.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.streaming import BATCH, Block, make_loop
from pipeline.store import Rows, Schema, Spool, Store, Writer, shard_view
from pipeline.store import hash as hashing
from pipeline.store.shard import Shard
from pipeline.train.batches import Order, ResidentBatches
from pipeline.train.dataset import READ_BYTES, Table

REPEATS = 7
WIDE = Schema({"x": ("<f4", (1000,))})
MOONS = Schema({"x": ("<f8", (2,))})
WIDE_ROWS, MOON_ROWS, BLOCK = 50_000, 1_000_000, 10_000
STEPS = 100  # of training, timed together


def rows(start: int, stop: int, theta: np.ndarray, x: np.ndarray) -> Rows:
    n = stop - start
    return Rows(
        *(np.arange(start, stop), theta[start:stop], {"x": x[start:stop]}, {}),
        *(np.zeros(n, np.uint8), np.zeros(n, np.float32)),
    )


def fill(
    path: Path, schema: Schema, theta: np.ndarray, x: np.ndarray
) -> tuple[Store, float, float]:
    """Return a store of these rows, with the wall and CPU seconds of all appends and seals."""
    store = Store.create(path, {"names": ["a", "b"]})
    with Writer(store) as writer:
        writer.set_schema(schema)
        per_shard = writer.rows_per_shard(schema)
        with Spool(writer.spool_directory, "bench", schema, per_shard) as spool:
            wall, cpu = time.perf_counter(), time.process_time()
            for start in range(0, len(theta), BLOCK):
                spool.append(rows(start, min(start + BLOCK, len(theta)), theta, x))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return store, wall, cpu


def seconds(job: Callable[[], Any]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def read_shards(store: Store) -> None:
    for view in store.shards():
        view.column("x/x")


def reading(folder: Path) -> dict[str, float]:
    """Compare reading the outputs of all shards with `np.load` of files of the same sizes."""
    generator = np.random.default_rng(0)
    x = generator.random((WIDE_ROWS, 1000), np.float32)
    store, _, _ = fill(folder / "wide", WIDE, generator.random((WIDE_ROWS, 2)), x)
    files = []
    for number, view in enumerate(store.shards()):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], view.column("x/x"))

    def load() -> None:
        for file in files:
            np.load(file)

    spent: dict[str, list[float]] = {"shards": [], "np_load": []}
    for _ in range(REPEATS + 1):
        spent["shards"].append(seconds(lambda: read_shards(store)))
        spent["np_load"].append(seconds(load))
    shards, loads = (statistics.median(times[1:]) for times in spent.values())
    size = x.nbytes / 1e9
    return {"shards_GB_s": size / shards, "np_load_GB_s": size / loads, "ratio": loads / shards}


def writing(folder: Path) -> dict[str, float]:
    """Measure append and seal of two-moons-sized rows, and status of a million of them."""
    generator = np.random.default_rng(1)
    theta, x = generator.random((MOON_ROWS, 2)), generator.random((MOON_ROWS, 2))
    times = [fill(folder / f"moons{k}", MOONS, theta, x) for k in range(REPEATS)]

    def status() -> None:
        store = Store.open(folder / "moons0")
        assert store.counts(MOON_ROWS)["missing"] == 0
        store.digest(MOON_ROWS)
        store.slowest(3)

    return {
        "append_rows_per_s": MOON_ROWS / statistics.median(wall for _, wall, _ in times[1:]),
        "append_rows_per_cpu_s": MOON_ROWS / statistics.median(cpu for _, _, cpu in times[1:]),
        "status_1e6_rows_s": statistics.median(seconds(status) for _ in range(REPEATS)),
    }


@contextmanager
def unchecked() -> Iterator[None]:
    """Have rows read as they are: no hashes are read, none is compared."""
    none = np.zeros((1, 2), np.uint64)
    hashes, check = Shard.hashes, shard_view.check
    Shard.hashes = lambda self, low, high: np.broadcast_to(none, (high - low, 2))  # type: ignore
    shard_view.check = lambda rows, hashes: True  # type: ignore[assignment]
    try:
        yield
    finally:
        Shard.hashes, shard_view.check = hashes, check  # type: ignore[method-assign]


def checking(store: Store) -> dict[str, float]:
    """Return what the comparison of rows with their hashes costs, as shares of processor time.

    raw is the mere reading of the bytes in the same pieces, load the loader of training: pieces, float32;
    training is loading and the steps of an epoch.
    """
    table = Table.of(store, MOON_ROWS, 0.05)
    pieces = [(p.view, table.positions(*p[:3])) for p in table.units()]
    room = table.allocate(table.train_rows)
    step = max(1, READ_BYTES // table.row_bytes)

    def raw() -> None:
        for view in store.shards():
            for low in range(0, len(view), step):
                for name in ("theta", *(f"x/{name}" for name in table.shapes)):
                    view.shard.read(name, low, low + step)

    def bare() -> None:
        with unchecked():
            table.load(pieces, room)

    jobs = {"raw": raw, "unchecked": bare, "checked": lambda: table.load(pieces, room)}
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    hashing.check._seen = hashing.COMPILED_FROM
    for _ in range(REPEATS + 1):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            spent[name].append(time.process_time() - started)
    least = {
        name: min(times[1:]) for name, times in spent.items()
    }  # what other processes disturbed least
    cost = least["checked"] - least["unchecked"]
    epoch = least["unchecked"] + step_seconds(table) * table.train_rows
    return {
        "of_raw_read": cost / least["raw"],
        "of_load": cost / least["unchecked"],
        "of_training": cost / epoch,
        "checked_GB_s": sum(values.nbytes for values in room.values()) / cost / 1e9,
    }


def step_seconds(table: Table) -> float:
    """Return the processor seconds of a training step of CMPE for each row of its batch."""
    torch.set_num_threads(1)
    batches = ResidentBatches(table.sample(), Order(0, BATCH)).batches(0)
    loop = make_loop(table, 1_000_000)
    times = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        Block.rate(loop, batches, STEPS)
        times.append(time.process_time() - started)
    return min(times[1:]) / STEPS / BATCH


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {**reading(folder), **writing(folder)}
        for kind in ("wide", "moons0"):
            result[f"check_{kind}"] = checking(Store.open(folder / kind))
    print(json.dumps({"benchmark": "store_read", **result}))


if __name__ == "__main__":
    main()
