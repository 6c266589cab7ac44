"""Evaluation with one process and with more: equal numbers, and how much faster.

    python -m benchmarks.evaluation_workers RUN [--workers 2] [key=value ...]

RUN is a run with a trained posterior and test simulations; a copy of it is worked on. The evaluations differ in
`evaluate.workers` alone, and reference draws that are stored are used by both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def call(run: Path, workers: int, words: list[str]) -> subprocess.Popen[bytes]:
    """Start an evaluation in a session of its own."""
    command = [sys.executable, "-m", "pipeline", "evaluate", "-o", str(run), "track.live=false"]
    command += [f"evaluate.workers={workers}", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]


def evaluation(run: Path) -> Path:
    key = json.loads((run / "latest.json").read_text())["training"]
    return run / "trainings" / key / "evaluation"


def measured(run: Path) -> dict[str, Any]:
    """Return the metrics without those that are times."""
    metrics = json.loads((evaluation(run) / "metrics.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name != "seconds"}


def whole(run: Path, workers: int, words: list[str]) -> tuple[float, dict[str, Any]]:
    """Evaluate anew; return seconds as the evaluation tells them, without imports, and the metrics."""
    shutil.rmtree(evaluation(run), ignore_errors=True)
    assert call(run, workers, words).wait() == 0
    content = json.loads((evaluation(run) / "metrics.json").read_text())
    return float(content["seconds"]), measured(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(asked.run, run)
        one, first = whole(run, 1, asked.words)
        more, second = whole(run, asked.workers, asked.words)
    result = {"one": one, "workers": asked.workers, "more": more, "ratio": round(one / more, 2)}
    result |= {"equal": first == second, "load": os.getloadavg()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
