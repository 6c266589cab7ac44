"""Evaluation with one process and with two, and killed at random times: equal numbers, and how much faster.

    python -m benchmarks.evaluation_workers RUN [--kills 20] [key=value ...]

RUN is a run with a trained posterior and test simulations; a copy of it is worked on. The first evaluations differ
in `evaluate.workers` alone. Then one is killed (SIGKILL to it and all its processes) at times that are drawn
uniformly from the duration of a whole one, as often as asked, and completed at last. Prints one JSON object.
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


def killed(run: Path, words: list[str], kills: int, longest: float) -> tuple[int, dict[str, Any]]:
    """Kill an evaluation at random times until it is done; return how often, and its metrics."""
    chance, count = random.Random(0), 0
    shutil.rmtree(evaluation(run), ignore_errors=True)
    while count < kills and not (evaluation(run) / "metrics.json").exists():
        process = call(run, 2, words)
        time.sleep(chance.uniform(0, longest))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            count += 1
        process.wait()
    assert call(run, 2, words).wait() == 0
    return count, measured(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(asked.run, run)
        one, first = whole(run, 1, asked.words)
        two, second = whole(run, 2, asked.words)
        result: dict[str, Any] = {"one": one, "two": two, "ratio": round(one / two, 2)}
        result["equal"] = first == second
        if asked.kills:
            count, last = killed(run, asked.words, asked.kills, two + 8)
            result |= {"kills": count, "equal_after_kills": last == first}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
