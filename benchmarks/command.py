"""How fast the command line answers: `--help`, and `status` on a store of a million rows.

Run with `python -m benchmarks.command`; prints one JSON object, seconds as medians of fresh processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 1_000_000
REPEATS = 5


def seconds(*words: str) -> float:
    """Return the median wall seconds of a fresh `sbiflow` process."""
    spent = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", *words], check=True, capture_output=True)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def bare_python() -> float:
    """Return the median seconds of an interpreter that does nothing: the limit."""
    spent = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["-o", str(run), "-c", "configs/two_moons.yaml", f"budget={ROWS}", "test=0"]
        subprocess.run(
            [sys.executable, "-m", "pipeline", "simulate", *words],
            check=True,
            capture_output=True,
        )
        result = {
            "help_s": seconds("--help"),
            "status_1e6_rows_s": seconds("status", "-o", str(run), "--json"),
            "bare_python_s": bare_python(),
        }
    result["help_over_bare"] = result["help_s"] / result["bare_python_s"]
    print(json.dumps({"benchmark": "command", **result}))


if __name__ == "__main__":
    main()
