"""How much of the actors' time is simulation, and how fast a batched simulator is beside joblib without a store.

Run with `python -m benchmarks.simulate`; prints one JSON object. Utilisation is the seconds within the simulator
itself, over workers times the seconds from the first to the last simulation; rates are medians of repeats.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import cluster
import simulators
from pipeline.config import build
from pipeline.run import RunDirectory
from pipeline.simulate.seed import generators
from pipeline.simulate.stage import simulate
from pipeline.stop import Stop
from pipeline.store import Store

WORKERS = 2
BATCHED = 8_000_000  # two moons
BLOCK = 4096
REPEATS = 3
SLEEPER = """
import time
import numpy as np
from simulators import Uniform, simulator

def make(seconds):
    @simulator(prior={"u": Uniform(0, 1)}, name=f"sleep_{seconds:g}")
    def sleeper(u, rng):
        time.sleep(seconds)
        return rng.normal(u, 1, 10)
    return sleeper

ten_ms, one_s = make(0.01), make(1.0)
"""


def stage(folder: Path, simulator: str, budget: int) -> Any:
    """Run the stage once in a fresh run directory and return its result."""
    config = build(
        {
            "name": "benchmark",
            "simulator": simulator,
            "budget": budget,
            "test": 0,
            "simulate": {"workers": WORKERS, "block": BLOCK},
        }
    )
    return simulate(config, RunDirectory(folder), stop=Stop())


def utilisation(folder: Path, simulator: str, budget: int) -> float:
    """Return the share of the actors' time that was spent within the simulator."""
    result = stage(folder, simulator, budget)
    within = sum(
        row.seconds for row in Store.open(RunDirectory(folder).store("train")).slowest(budget)
    )
    return within / (result.seconds * WORKERS)


def committed(folder: Path) -> float:
    """Return two moons simulations per second and worker, from the first to the last commit."""
    result = stage(folder, "two_moons", BATCHED)
    return result.simulated / result.seconds / WORKERS


def block(number: int) -> int:
    """Simulate one block of two moons, and keep nothing."""
    simulator = simulators.load("two_moons")
    prior_rng, noise_rng = generators(0, 0, number)
    return len(simulator.simulate_block(simulator.prior.sample(prior_rng, BLOCK), noise_rng)["x"])


def blocks(first: int, count: int) -> int:
    return sum(block(number) for number in range(first, first + count))


def bare() -> float:
    """Return the same without store or durability: joblib over as many blocks, per second and worker."""
    each = 64
    starts = range(0, BATCHED // BLOCK, each)
    with joblib.Parallel(n_jobs=WORKERS) as parallel:
        parallel(joblib.delayed(blocks)(0, 1) for _ in range(WORKERS))
        started = time.perf_counter()
        done = sum(parallel(joblib.delayed(blocks)(first, each) for first in starts))
        return done / (time.perf_counter() - started) / WORKERS


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sleepers.py").write_text(SLEEPER)
        started = time.perf_counter()
        with cluster.connect("local", cpus=WORKERS):
            ray_start = time.perf_counter() - started
            result: dict[str, Any] = {"workers": WORKERS, "ray_start_s": ray_start}
            for word, budget in (("ten_ms", 12_000), ("one_s", 120)):
                path = f"{folder / 'sleepers.py'}:{word}"
                result[f"utilisation_{word}"] = utilisation(folder / word, path, budget)
            rates = [(committed(folder / f"moons-{k}"), bare()) for k in range(REPEATS)]
    ours, theirs = np.transpose(rates)
    result["two_moons_committed_per_s_and_core"] = statistics.median(ours)
    result["two_moons_joblib_without_store"] = statistics.median(theirs)
    result["committed_over_joblib"] = statistics.median(ours / theirs)
    print(json.dumps({"benchmark": "simulate", **result}))


if __name__ == "__main__":
    main()
