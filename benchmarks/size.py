"""A store of very many rows: seconds and peak memory of opening it, growing it and training on it.

The store is built of real two-moons simulations, a shard at a time, in a temporary folder. Then commands run as
a user runs them, each in a process of its own:

    simulate_new    a new run of that budget, until its first row is durable
    simulate_grown  the run of that store, with a larger budget, until its next row is durable
    status          counts, digest and slowest rows
    train           one step, with all that goes before, validation and the posterior's files
    digest          of the store alone

`seconds` is wall-clock, `cpu_seconds` also of what the command does after it is asked to stop. `peak_mb` is the
largest resident size of one process; `all_mb` also adds what its children hold at that time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config as configuration
from pipeline.config import Config
from pipeline.run import RunDirectory
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import schema_of
from pipeline.store import Store
from pipeline.store.rows import concatenate
from pipeline.store.shard import write_shard

POLL = 0.05
DIGEST = "import sys; from pipeline.store import Store; print(Store.open(sys.argv[1]).digest())"


def begin(run: RunDirectory, rows: int) -> Config:
    """Make a run without simulations."""
    settings = {"name": "size", "simulator": "two_moons", "budget": rows, "test": 0}
    config = configuration.build(settings)
    configuration.save(config, run)
    return config


def build(run: RunDirectory, rows: int) -> float:
    """Fill a run's training store with so many rows and return the seconds."""
    started = time.monotonic()
    config = begin(run, rows)
    simulation = spec_of(config, "train")
    block = simulation.key_size
    schema = schema_of(simulation.run(np.arange(block)), simulation.simulator.ragged)
    store = Store.create(run.store("train"), identity(simulation), schema)
    per = schema.rows_per_shard(2, store.shard_bytes)
    for number, start in enumerate(range(0, rows, per)):
        ids = np.arange(start, min(start + per, rows))
        parts = np.split(ids, range(block, len(ids), block))
        batch = concatenate([simulation.run(part) for part in parts], schema).conform(schema)
        write_shard(batch, store.path / "new", store.path / f"shards/{number:06d}")
    return time.monotonic() - started


def resident(pid: int) -> tuple[float, float]:
    """Return the peak of a process, and what it and its descendants hold now, in MB."""
    pids, held, peak = [pid], 0.0, 0.0
    for one in pids:
        try:
            status = Path(f"/proc/{one}/status").read_text()
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
        except OSError:
            continue
        if "VmRSS" in status:
            size = {key: int(status.split(key)[1].split()[1]) / 1e3 for key in ("VmHWM", "VmRSS")}
            held += size["VmRSS"]
            peak = size["VmHWM"] if one == pid else peak
    return peak, held


def processor() -> float:
    """Return the processor seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def watch(command: list[str], until: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Run a command to its end, or until something holds, and say what it took."""
    started, before = time.monotonic(), processor()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
        peak = held = 0.0
        happened = False
        while process.poll() is None:
            mine, all_of_them = resident(process.pid)
            peak, held = max(peak, mine), max(held, all_of_them)
            if not happened and until():
                happened, seconds = True, time.monotonic() - started
                process.send_signal(signal.SIGTERM)
            time.sleep(POLL)
        if not happened:
            seconds = time.monotonic() - started
            if process.returncode:
                output.seek(0)
                raise RuntimeError(f"{command}: {output.read().decode()}")
    spent = processor() - before
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(spent, 2),
        "peak_mb": round(peak),
        "all_mb": round(held),
    }


def rows_in_spools(store: Path) -> bool:
    """Whether a row is durable that lies in no published shard."""
    spools = [*store.glob("sessions/*/*.spool"), *store.glob("sessions/*/*.ready/manifest.json")]
    return any(path.stat().st_size for path in spools if path.exists())


def measure(folder: Path, rows: int, ray: bool) -> dict[str, Any]:
    """Build the store and run the commands."""
    run = RunDirectory(folder / "run")
    result: dict[str, Any] = {"rows": rows, "build_seconds": round(build(run, rows), 1)}
    store = run.store("train")
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    result["store_gb"] = round(size / 1e9, 2)
    print(result, file=sys.stderr)
    command, output = ["-m", "pipeline"], ["-o", str(run.path)]
    result["status"] = watch([*command, "status", *output])
    result["digest"] = watch(["-c", DIGEST, str(store)])
    result["train"] = watch([*command, "train", *output, "train.steps=1"])
    print(result, file=sys.stderr)
    for name, more in (("simulate_new", rows), ("simulate_grown", rows + 10**6)):
        if name == "simulate_new":
            run = RunDirectory(folder / "new")
            begin(run, rows)
        words = [f"budget={more}", "test=0", "simulate.workers=1"]
        for way in ("_leases", "_ray") if ray else ("_leases",):
            options = ["--leases"] if way == "_leases" else []
            given = [*command, "simulate", "-o", str(run.path), *options, *words]
            result[name + way] = watch(given, partial(rows_in_spools, run.store("train")))
            print(name + way, result[name + way], file=sys.stderr)
        run = RunDirectory(folder / "run")
    return result


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--folder", type=Path, help="where to put the store; a temporary one")
    parser.add_argument("--ray", action="store_true", help="simulate with Ray too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="size-", dir=given.folder) as folder:
        print(json.dumps({"benchmark": "size", **measure(Path(folder), given.rows, given.ray)}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
