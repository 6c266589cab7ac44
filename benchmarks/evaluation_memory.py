"""Memory of a large evaluation: 10 000 test sets with 10 000 draws of 7 parameters each.

    python -m benchmarks.evaluation_memory [--sets 10000] [--draws 10000] [--workers 1] [--seed 0]

Every 0.2 seconds the memory of the evaluation and of all its processes is read: the largest of one process (RSS),
and the largest sum, in which pages that processes share count once (PSS). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from simulators import Independent, Normal, simulator

PARAMETERS = 7
METRICS = [
    *("rmse", "nrmse", "mae", "r2", "sbc", "ece", "coverage", "coverage_joint"),
    *("tarp", "tarp_posterior", "z_score", "contraction", "seconds"),
]


@simulator(prior=Independent({f"p{d}": Normal(0, 1) for d in range(PARAMETERS)}))
def gaussian(rng: np.random.Generator, **theta: float) -> dict[str, np.ndarray]:
    """x = theta + N(0, 1/4)."""
    return {"x": np.array(list(theta.values())) + 0.5 * rng.normal(size=PARAMETERS)}


def prepare(folder: Path, sets: int, draws: int, seed: int) -> None:
    """Simulate, and train a little."""
    from sbiflow import Run

    run = Run(
        folder,
        simulator=gaussian,
        budget=1000,
        test=sets,
        seed=seed,
        estimator={"name": "cmpe", "arguments": {"width": 32, "depth": 1}},
        train={"steps": 300, "threads": 1},
        evaluate={"draws": draws, "metrics": METRICS, "sampling_steps": 1},
        track={"live": False},
    )
    run.simulate()
    run.train()


def watched(run: Path, workers: int) -> dict[str, Any]:
    """Evaluate in another process; return the peaks in megabytes, and the seconds."""
    command = [sys.executable, "-m", "pipeline", "evaluate", "-o", str(run)]
    child = subprocess.Popen([*command, f"evaluate.workers={workers}"], stdout=subprocess.DEVNULL)
    one, together, began = 0, 0, time.monotonic()
    while child.poll() is None:
        try:
            first = psutil.Process(child.pid)
            infos = [p.memory_full_info() for p in (first, *first.children(recursive=True))]
        except psutil.Error:  # one has just ended
            continue
        one = max(one, *(info.rss for info in infos))
        together = max(together, sum(info.pss for info in infos))
        time.sleep(0.2)
    if child.returncode:
        raise SystemExit("the evaluation failed")
    seconds = round(time.monotonic() - began)
    return {"largest_rss_mb": one >> 20, "all_pss_mb": together >> 20, "seconds": seconds}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="evaluation-memory-"))
    try:
        prepare(folder / "run", given.sets, given.draws, given.seed)
        found = watched(folder / "run", given.workers)
        chunks = sum(
            f.stat().st_size for f in folder.glob("run/trainings/*/evaluation/*.zarr/**/*")
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sizes = {"sets": given.sets, "draws": given.draws, "parameters": PARAMETERS}
    load = [round(value, 1) for value in os.getloadavg()]
    print(
        json.dumps(
            sizes | {"workers": given.workers, "chunks_mb": chunks >> 20} | found | {"load": load}
        )
    )


if __name__ == "__main__":
    main()
