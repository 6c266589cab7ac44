"""Kill training with SIGKILL at random times, repeat it until it ends, compare with an undisturbed run.

    python -m benchmarks.chaos_train --kills 10

Prints one JSON object; exit code 1 unless the weights are equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import Config, build
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import import_arrays

ROWS = 2000
PATIENCE = 300.0  # seconds for a training to save


def configure(steps: int, workers: int, streamed: bool) -> Config:
    """Return a small CMPE training that saves its state all the time."""
    return build(
        {
            "name": "chaos",
            "simulator": "two_moons",
            "budget": ROWS,
            "estimator": {"name": "cmpe", "arguments": {"width": 32, "depth": 2}},
            "train": {
                "steps": steps,
                "batch_size": 64,
                "workers": workers,
                "threads": 1,
                "in_memory": not streamed,
                "checkpoint_seconds": 0.2,
            },
        }
    )


def prepare(folder: Path) -> RunDirectory:
    """Make a run with a store of ready-made simulations in several shards."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (ROWS, 2))
    x = theta + 0.1 * rng.normal(size=theta.shape)
    import_arrays(folder / "store" / "train", theta, x, ("a", "b"), shard_bytes=16_384)
    return RunDirectory(folder)


def start(run: RunDirectory, given: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.chaos_train", "--child", str(run.path)]
    command += ["--steps", str(given.steps), "--workers", str(given.workers)]
    command += ["--streamed"] if given.streamed else []
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    (path,) = run.path.glob("trainings/*/posterior/weights.pt")
    loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return loaded


def kill_at_random(child: subprocess.Popen[bytes], run: RunDirectory, rng: random.Random) -> bool:
    """Kill a training while it starts or around its first states; return whether it was alive."""
    saves = rng.randint(1, 3) if rng.random() < 0.8 else 0
    seen = {state.stat().st_mtime_ns for state in run.path.glob("trainings/*/state.pt")}
    before = len(seen)
    deadline = time.monotonic() + PATIENCE
    while child.poll() is None and len(seen) - before < saves and time.monotonic() < deadline:
        for state in run.path.glob("trainings/*/state.pt"):
            with suppress(FileNotFoundError):  # between two renames
                seen.add(state.stat().st_mtime_ns)
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.3))
    alive = child.poll() is None
    child.kill()
    return alive


def chaos(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return how many kills hit a running training and whether both ended with the same weights."""
    rng = random.Random(given.seed)
    undisturbed, killed = prepare(folder / "undisturbed"), prepare(folder / "killed")
    began = time.monotonic()
    if start(undisturbed, given).wait():
        raise SystemExit("the undisturbed run failed")
    whole = time.monotonic() - began
    kills = attempts = resumed = 0
    while not list(killed.path.glob("trainings/*/done.json")):
        attempts += 1
        child = start(killed, given)
        if kills < given.kills:
            resumed += bool(list(killed.path.glob("trainings/*/state.pt")))
            kills += kill_at_random(child, killed, rng)
        if child.wait() not in (0, -9):
            raise SystemExit(f"attempt {attempts} failed with {child.returncode}")
    first, second = weights(undisturbed), weights(killed)
    equal = all(torch.equal(first[name], second[name]) for name in first)
    return {
        "kills": kills,
        "attempts": attempts,
        "attempts_that_found_a_state": resumed,
        "steps": given.steps,
        "workers": given.workers,
        "streamed": given.streamed,
        "undisturbed_seconds": round(whole, 1),
        "weights_bit_equal": equal,
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help="internal")
    given = parser.parse_args()
    if given.child:
        from pipeline.train.stage import train

        config = configure(given.steps, given.workers, given.streamed)
        train(config, RunDirectory(given.child), stop=Stop())
        return
    folder = Path(tempfile.mkdtemp(prefix="chaos-train-"))
    try:
        result = chaos(folder, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    sys.exit(not result["weights_bit_equal"])


if __name__ == "__main__":
    main()
