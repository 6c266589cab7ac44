"""How much faster a study is with several cases at a time: the same study by fresh commands, one after the other.

    python -m benchmarks.study                    8 trainings, by 1 and by 2 at a time; a few minutes
    python -m benchmarks.study --steps 20000 --parallel 1 2 4

Prints one JSON object: wall seconds of each command, from the start of Python on, and their ratio to the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def plan(steps: int, cases: int) -> dict[str, Any]:
    """Return a study whose cases take equally long and share one store."""
    return {
        "base": {
            "name": "speed",
            "simulator": {"name": "gaussian_linear", "arguments": {"dim": 5}},
            "budget": 2048,
            "test": 20,
            "estimator": {"name": "cmpe", "arguments": {"width": 128, "depth": 3}},
            "train": {"steps": steps, "validate_every": max(1, steps // 10)},
            "evaluate": {"draws": 100, "metrics": ["nrmse"], "sampling_steps": 2},
        },
        "axes": {"train.weight_decay": [round(1e-4 * (k + 1), 6) for k in range(cases)]},
    }


def seconds(source: Path, folder: Path, parallel: int) -> float:
    """Return the wall seconds of a study whose simulations are there."""
    words = ["-m", "pipeline", "study", str(source), "-o", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    command = [sys.executable, *words, "--parallel", str(parallel)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8000, help="of each training")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "study", "load": os.getloadavg()[0], **vars(given)}
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "study.yaml"
        source.write_text(json.dumps(plan(given.steps, given.cases)))
        spent = [seconds(source, Path(place) / str(n), n) for n in given.parallel]
    result["seconds"] = [round(one, 1) for one in spent]
    result["ratio"] = [round(one / spent[0], 3) for one in spent]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
