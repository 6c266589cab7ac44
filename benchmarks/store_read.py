"""How fast the store reads, beside `np.load` of the same bytes, how fast it takes rows, and answers.

Run with `python -m benchmarks.store_read`; prints one JSON object, medians of alternating repeats.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store import Rows, Schema, Spool, Store

REPEATS = 7
WIDE = Schema({"x": ("<f4", (1000,))})
MOONS = Schema({"x": ("<f8", (2,))})
WIDE_ROWS, MOON_ROWS, BLOCK = 50_000, 1_000_000, 10_000


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
    with store.writer() as writer:
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


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        result = {**reading(Path(name)), **writing(Path(name))}
    print(json.dumps({"benchmark": "store_read", **result}))


if __name__ == "__main__":
    main()
