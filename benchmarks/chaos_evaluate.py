"""Kill an evaluation with SIGKILL at random times, repeat it until it ends, compare with an undisturbed one.

    python -m benchmarks.chaos_evaluate --kills 20 [--workers 2] [--chunks]

The kill hits the process and all that it started: while they start, or when blocks are just finished. The
undisturbed evaluation has one worker. `--chunks` keeps the draws of even this small evaluation in a Zarr
array, in one process. Prints one JSON object; exit code 1 unless all numbers and draws are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import read_arrays, read_document
from pipeline.results import DRAWS, METRICS
from pipeline.run import RunDirectory
from pipeline.stop import Stop

MEASURED = ["c2st", "mmd", "rmse", "sbc", "ece", "tarp", "tarp_posterior", "crps", "seconds"]
PATIENCE = 600.0  # seconds for a block


def prepare(folder: Path, sets: int, draws: int) -> None:
    """Simulate two moons and train on them, a little."""
    from sbiflow import Run

    run = Run(
        folder,
        simulator="two_moons",
        budget=400,
        test=sets,
        estimator={"name": "cmpe", "arguments": {"width": 32, "depth": 2}},
        train={"steps": 200, "threads": 1},
        evaluate={"draws": draws, "metrics": MEASURED, "sampling_steps": 3},
        track={"live": False},
    )
    run.simulate()
    run.train()


def start(path: Path, workers: int, chunks: bool) -> subprocess.Popen[bytes]:
    """Start an evaluation in a session of its own."""
    command = [sys.executable, "-m", "benchmarks.chaos_evaluate", "--child", str(path)]
    command += ["--workers", str(workers), *(["--chunks"] if chunks else [])]
    return subprocess.Popen(command, start_new_session=True)


def finished(path: Path) -> int:
    """Return how many blocks are finished and not joined yet."""
    return sum(
        1
        for pattern in ("trainings/*/evaluation/blocks/*.npz", "references/*/*.npz")
        for file in path.glob(pattern)
        if not file.name.startswith(".")
    )


def kill_at_random(child: subprocess.Popen[bytes], path: Path, rng: random.Random) -> bool:
    """Kill an evaluation while it starts or after a few more blocks; return whether it was alive."""
    more = rng.randint(1, 3) if rng.random() < 0.8 else 0
    before, deadline = finished(path), time.monotonic() + PATIENCE
    while more and child.poll() is None and time.monotonic() < deadline:
        if abs(finished(path) - before) >= more:  # blocks of references vanish when they are joined
            break
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    alive = child.poll() is None
    if alive:
        os.killpg(child.pid, signal.SIGKILL)
    return alive


def result(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metrics without those that are times, and the draws."""
    (metrics,) = path.glob(f"trainings/*/{METRICS}")
    numbers = {k: v for k, v in read_document(metrics)["metrics"].items() if k != "seconds"}
    return numbers, read_arrays(metrics.parent / Path(DRAWS).name)


def chaos(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return how many kills hit a running evaluation and whether both ended with the same numbers."""
    rng = random.Random(given.seed)
    whole, killed = folder / "undisturbed", folder / "killed"
    prepare(whole, given.sets, given.draws)
    shutil.copytree(whole, killed)
    began = time.monotonic()
    if start(whole, 1, given.chunks).wait():
        raise SystemExit("the undisturbed evaluation failed")
    seconds = time.monotonic() - began
    kills = attempts = resumed = 0
    while not list(killed.glob(f"trainings/*/{METRICS}")):
        attempts += 1
        resumed += bool(finished(killed))
        child = start(killed, given.workers, given.chunks)
        if kills < given.kills:
            kills += kill_at_random(child, killed, rng)
        if child.wait() not in (0, -signal.SIGKILL):
            raise SystemExit(f"attempt {attempts} failed with {child.returncode}")
    (numbers, draws), (again, drawn) = result(whole), result(killed)
    equal = draws.keys() == drawn.keys() and all(np.array_equal(draws[k], drawn[k]) for k in draws)
    return {
        "kills": kills,
        "attempts": attempts,
        "attempts_that_found_blocks": resumed,
        "sets": given.sets,
        "workers": given.workers,
        "chunks": any(name.startswith("chunks_") for name in drawn),
        "undisturbed_seconds": round(seconds, 1),
        "metrics_equal": numbers == again,
        "draws_bit_equal": equal,
    }


def evaluate(path: Path, workers: int, chunks: bool) -> None:
    """Evaluate in this process, and in others where `workers` says so."""
    from pipeline.config import build, load, override
    from pipeline.evaluate import draws
    from pipeline.evaluate.stage import evaluate as measure

    if chunks:
        assert workers == 1, "other processes would not know it"
        draws.LARGE = 0
    run = RunDirectory(path)
    words = [f"evaluate.workers={workers}"]
    measure(build(override(load(run).plain(), words)), run, stop=Stop())


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunks", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help="internal")
    given = parser.parse_args()
    if given.chunks:
        given.workers = 1
    if given.child:
        evaluate(given.child, given.workers, given.chunks)
        return
    folder = Path(tempfile.mkdtemp(prefix="chaos-evaluate-"))
    try:
        found = chaos(folder, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    sys.exit(not (found["metrics_equal"] and found["draws_bit_equal"]))


if __name__ == "__main__":
    main()
