"""What MLflow costs: a training with and without it, rows in its database, and the time of a long sync.

    python -m benchmarks.tracking [--steps 20000] [--repeats 3] [--points 100000]

Trainings with and without MLflow alternate; the difference of their seconds per 1000 steps is the cost. The long
sync is that of a journal with so many points into a fresh SQLite database, and a repeat of it that finds nothing
new. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
CONFIG = {
    "name": "cost",
    "simulator": "two_moons",
    "budget": 1000,
    "test": 10,
    "estimator": {"name": "cmpe", "arguments": {"width": 64, "depth": 2}},
    "simulate": {"workers": 1},
}


def command(*words: object) -> None:
    call = [sys.executable, "-m", "pipeline", *map(str, words)]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trained(run: Path, steps: int, seed: int, live: bool) -> float:
    """Train anew; return the seconds of 1000 steps."""
    words = (f"train.steps={steps}", f"train.weight_decay={seed}e-6", f"track.live={live}".lower())
    command("train", "-o", run, *words)
    key = json.loads((run / "latest.json").read_text())["training"]
    done = json.loads((run / "trainings" / key / "done.json").read_text())
    return 1000 * float(done["seconds"]) / steps


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM metrics").fetchone()[0])


def costs(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return seconds per 1000 steps with and without MLflow, and the rows of one training."""
    run, config = folder / "run", folder / "cost.yaml"
    config.write_text(json.dumps(CONFIG))
    command("simulate", "-o", run, "-c", config, "track.live=false")
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(repeats):
        for live in (False, True) if number % 2 else (True, False):
            seconds[live].append(trained(run, steps, 2 * number + live + 1, live))
    with_, without = (statistics.median(seconds[live]) for live in (True, False))
    all_rows = rows(run / "mlflow.db")
    return {
        "seconds_per_1000_steps_live": [round(value, 4) for value in seconds[True]],
        "seconds_per_1000_steps_without": [round(value, 4) for value in seconds[False]],
        "added_seconds_per_1000_steps": round(with_ - without, 4),
        "rows": all_rows,
        "trainings": 2 * repeats,
    }


def long_sync(folder: Path, points: int) -> dict[str, Any]:
    """Return the seconds of a sync of so many points, and of a repeat."""
    from evaluation.journal import Journal
    from pipeline.run import RunDirectory
    from pipeline.track.stage import sync

    run = RunDirectory(folder / "run")
    key = json.loads((run.path / "latest.json").read_text())["training"]
    journal = Journal(run.journal)
    values = {"learning_rate": 1e-3, "steps_per_second": 1.0, "gradient_norm": 0.5}
    for number in range(points // 4):
        event = {"event": "pace", "training": key, "step": 10**6 + number, "train": 0.1 + number}
        journal.append({"stage": "train", **event, **values})
    uri, result = f"sqlite:///{folder / 'long.db'}", {}
    for name in ("sync", "repeat"):
        began, used = time.perf_counter(), time.process_time()
        added = sync(run, uri, "long")
        result[f"{name}_seconds"] = round(time.perf_counter() - began, 2)
        result[f"{name}_processor_seconds"] = round(time.process_time() - used, 2)
    assert added.points == 0
    return {"points": rows(folder / "long.db"), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = costs(Path(folder), asked.steps, asked.repeats)
        print(json.dumps(result | long_sync(Path(folder), asked.points), indent=2))


if __name__ == "__main__":
    main()
