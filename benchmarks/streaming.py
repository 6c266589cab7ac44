"""Training from shards beside training in memory, and the memory that streaming needs.

rate     steps per second, streamed over in memory: the two alternate in one process
growth   peak memory of a training process beyond what it holds before its rows, for a large
         store and for one of a quarter of it
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import estimators
from pipeline.store import Rows, Schema, Spool, Store, Writer
from pipeline.train.batches import Order, ResidentBatches, StreamedBatches
from pipeline.train.dataset import Batch, Table
from pipeline.train.hyperparameters import Hyperparameters
from pipeline.train.loop import Loop
from pipeline.train.ranks import Ranks

WIDTH, PARAMETERS, BATCH = 1000, 4, 256
NAMES = tuple("abcd")


def fill(path: Path, rows: int) -> Store:
    """Write a store of synthetic simulations, a shard at a time."""
    schema = Schema({"x": ("<f4", (WIDTH,))})
    store = Store.create(path, {"names": list(NAMES)}, schema)
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(PARAMETERS, WIDTH)).astype(np.float32)
    size = schema.rows_per_shard(PARAMETERS, store.shard_bytes)
    with Writer(store) as writer, Spool(writer.spool_directory, "fill", schema, size) as spool:
        for start in range(0, rows, size):
            n = min(size, rows - start)
            theta = rng.normal(size=(n, PARAMETERS))
            x = theta.astype(np.float32) @ mixing + rng.standard_normal((n, WIDTH), np.float32)
            outcome, seconds = np.zeros(n, np.uint8), np.zeros(n, np.float32)
            spool.append(Rows(np.arange(start, start + n), theta, {"x": x}, {}, outcome, seconds))
            writer.publish()
    return store


class Block:
    """Times a number of steps of the loop, then stops it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []

    def check(self, loop: Loop) -> tuple[bool, bool, int]:
        self.times.append(time.perf_counter())
        return False, len(self.times) == 2, self.steps

    def save(self, loop: Loop) -> None: ...

    @classmethod
    def rate(cls, loop: Loop, batches: Iterator[Batch], steps: int) -> float:
        """Return steps per second."""
        block = cls(steps)
        loop.run(batches, block)
        started, ended = block.times
        return steps / (ended - started)


def make_loop(table: Table, steps: int, name: str = "cmpe") -> Loop:
    sample = table.sample()
    estimator: Any = estimators.create(
        name, sample.theta, sample.x, names=NAMES[: table.parameters]
    )
    hyperparameters = Hyperparameters(
        steps=steps,
        learning_rate=5e-4,
        weight_decay=1e-4,
        warmup=0.0,
        clip=None,
        ema=0.999,
        validate_every=steps,
        patience=None,
        amp=False,
        seed=0,
    )
    return Loop(estimator, hyperparameters, table.validation_batch(), Ranks())


def rate(folder: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Return the step rates of the same loop on both sources, medians over alternating blocks."""
    table = Table.of(fill(folder / "rate", rows), rows, 0.05)
    order = Order(0, BATCH)
    memory = ResidentBatches(table.gather(table.train), order)
    sources = {"memory": memory.batches(0), "stream": StreamedBatches(table, order).batches(0)}
    loop = make_loop(table, 1_000_000)
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for source in sources.values():  # warm both
        Block.rate(loop, source, 20)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, source in sources.items():
            rates[name].append(Block.rate(loop, source, 100))
    for source in sources.values():
        source.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    pairs = [s / m for s, m in zip(rates["stream"], rates["memory"], strict=True)]
    return {
        "rows": rows,
        "batch": BATCH,
        "memory_steps_per_second": round(medians["memory"], 1),
        "stream_steps_per_second": round(medians["stream"], 1),
        "stream_over_memory": round(medians["stream"] / medians["memory"], 3),
        "median_of_pairs": round(statistics.median(pairs), 3),
        "blocks": len(pairs),
    }


def growth(store: Path, rows: int, steps: int) -> dict[str, Any]:
    """Train `steps` steps streamed in this process; return its memory before and at its peak."""
    torch.set_num_threads(1)
    before = _peak()
    table = Table.of(Store.open(store), rows, 0.05)
    batches = StreamedBatches(table, Order(0, BATCH)).batches(0)
    speed = Block.rate(make_loop(table, 1_000_000), batches, steps)
    batches.close()
    return {
        "rows": rows,
        "store_gb": round(rows * table.row_bytes / 1e9, 3),
        "epochs": round(steps * BATCH / rows, 2),
        "growth_gb": round(_peak() - before, 3),
        "steps_per_second": round(speed, 1),
    }


def _peak() -> float:
    """Return the largest resident size of this process so far, in GB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the large store")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of the rate measurement"
    )
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the rate measurement")
    parser.add_argument("--folder", type=Path, help="where to put the stores; a temporary one")
    parser.add_argument("--growth", nargs=3, metavar=("STORE", "ROWS", "STEPS"), help="internal")
    given = parser.parse_args()
    if given.growth:
        store, rows, steps = given.growth
        print(json.dumps(growth(Path(store), int(rows), int(steps))))
        return
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="streaming-", dir=given.folder))
    try:
        result: dict[str, Any] = {"rate": rate(folder, given.rows, given.seconds)}
        rows = int(given.gb * 1e9 / (4 * (WIDTH + PARAMETERS)))
        fill(folder / "large", rows)
        for name, budget in (("large", rows), ("quarter", rows // 4)):
            command = [sys.executable, "-m", "benchmarks.streaming", "--growth"]
            arguments = [str(folder / "large"), str(budget), str(max(100, rows // BATCH))]
            done = subprocess.run(
                [*command, *arguments], stdout=subprocess.PIPE, check=True, text=True
            )
            result[name] = json.loads(done.stdout)
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
