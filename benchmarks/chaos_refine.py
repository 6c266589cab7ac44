"""Kill a refinement and all below it at random times, repeat until it ends, compare with an undisturbed one.

    python -m benchmarks.chaos_refine --kills 20

Kills are spread evenly over the rounds, at a random time after a round has begun; one in five comes after the
start of the process. Prints one JSON object; exit code 1
unless the digests of all rounds, the shares of the prior and all draws are equal.
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

from benchmarks.chaos_simulate import descendants, kill
from pipeline.answer.stage import Question
from pipeline.refine.answer import refined
from pipeline.refine.stage import Refinement
from pipeline.run import RunDirectory
from pipeline.stop import stop_on_signals
from sbiflow import Run

SIMULATOR = """
import time
import numpy as np
from simulators import Normal, simulator

@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)})
def slow(a, b, rng):
    time.sleep(0.02)
    return {"x": np.array([a, b]) + 0.2 * rng.normal(size=2)}
"""
OBSERVED = np.array([0.6, -0.4])
ROUNDS = 3
BEGUN = "begun"  # written by a child when its packages are imported
MOST_ATTEMPTS = 100
PATIENCE = 300.0  # seconds for it


def prepare(folder: Path) -> None:
    """Make the run that is refined."""
    (folder / "slow.py").write_text(SIMULATOR)
    run = Run(
        folder / "first", simulator=f"{folder / 'slow.py'}:slow", budget=200, test=0,
        estimator={"name": "nsf", "arguments": {"transforms": 2, "hidden": [24, 24]}},
        train={"steps": 300, "learning_rate": 3e-3, "checkpoint_seconds": 0.3},
    )  # fmt: skip
    run.simulate()
    run.train()


def child(path: Path, simulations: int) -> None:
    """Be one attempt: refine, and write what came out when all is done."""
    (path / BEGUN).touch()
    directory = RunDirectory(path)
    question = Question(directory, draws=200, checks=False)
    with directory.lock(), stop_on_signals() as stop:
        rounds, (answer,) = refined(
            Refinement(question, simulations, ROUNDS), OBSERVED, path / "answer", stop
        )
    result = {
        "digests": [one.digest for one in rounds],
        "shares": [one.share for one in rounds],
        "rows": [one.rows for one in rounds],
        "draws": answer.draws.tolist(),
    }
    (path / "result.json").write_text(json.dumps(result))


def start(path: Path, simulations: int) -> subprocess.Popen[bytes]:
    (path / BEGUN).unlink(missing_ok=True)
    words = ["--child", str(path), "--simulations", str(simulations)]
    with open(path.parent / f"{path.name}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos_refine", *words],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def finished(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    return result


def compare(folder: Path, kills: int, simulations: int, seed: int) -> dict[str, Any]:
    """Return what the undisturbed and the killed refinement have in common."""
    prepare(folder)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    for path in (undisturbed, killed):
        shutil.copytree(folder / "first", path)
    whole = start(undisturbed, simulations)
    _wait_for_begin(undisturbed, whole)
    began = time.monotonic()
    if whole.wait():
        raise SystemExit(f"the undisturbed refinement failed: see {undisturbed}.log")
    seconds = time.monotonic() - began
    rng, hits, attempts, found = random.Random(seed), 0, 0, set()
    while not (killed / "result.json").exists():
        attempts += 1
        if attempts > MOST_ATTEMPTS:
            raise SystemExit(f"no end after {attempts} attempts: see {killed}.log")
        process = start(killed, simulations)
        if hits < kills:
            if rng.random() < 0.8:
                _wait_for_begin(killed, process)
                _wait_for_round(killed, process, 1 + ROUNDS * hits // kills)
            hits += _killed(process, rng.uniform(0, seconds / ROUNDS))
            found.add(_reached(killed))
        if process.wait() not in (0, -signal.SIGKILL):
            raise SystemExit(f"attempt {attempts} failed: see {killed}.log")
        if hits < kills and (killed / "result.json").exists():  # it ended between two kills
            (killed / "result.json").unlink()
    one, other = finished(undisturbed), finished(killed)
    return {
        "benchmark": "chaos_refine",
        "kills": hits,
        "attempts": attempts,
        "rounds_that_were_killed": sorted(found),
        "undisturbed_seconds": round(seconds, 1),
        "equal": {name: one[name] == other[name] for name in one},
    }


def _wait_for_begin(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (path / BEGUN).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _wait_for_round(path: Path, process: subprocess.Popen[bytes], number: int) -> None:
    while _reached(path) < number and process.poll() is None:
        time.sleep(0.01)


def _killed(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill a process and all below it after some seconds; return whether it was alive."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill([process.pid, *descendants(process.pid)])
        return True
    return False


def _reached(path: Path) -> int:
    """Return the last round that has begun."""
    rounds = path.glob("refined/*/round_*")
    return max((int(one.name.split("_")[1].split("-")[0]) for one in rounds), default=0)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--simulations", type=int, default=600, help="in all rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help="internal")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.simulations)
        return
    folder = Path(tempfile.mkdtemp(prefix="chaos-refine-"))
    result = compare(folder, given.kills, given.simulations, given.seed)
    passed = all(result["equal"].values())
    if passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"see {folder}", file=sys.stderr)
    print(json.dumps(result))
    sys.exit(not passed)


if __name__ == "__main__":
    main()
