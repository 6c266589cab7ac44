"""Built-in simulators: simulations per CPU second in blocks, CPU seconds per 1000 reference draws.

Prior draws are included. References are drawn for observations from the prior; the slowest is shown
beside the median, since rejection takes longer for rare observations. The program does nothing: its
wall seconds are the cost of one process with its files and its watcher.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import simulators

BLOCK = 1024
REPEATS = 9
OBSERVATIONS = 30
NAMES = ("gaussian_linear", "gaussian_mixture", "inverse_kinematics", "slcp", "two_moons")


def seconds(
    work: Callable[[], Any], times: int = 1, clock: Callable[[], float] = time.process_time
) -> float:
    """Return the mean seconds of one call."""
    started = clock()
    for _ in range(times):
        work()
    return (clock() - started) / times


def rate(simulator: simulators.Simulator) -> float:
    """Return simulations per CPU second, the median of some repeats."""
    rng = np.random.default_rng(0)

    def block() -> None:
        simulator.simulate_block(simulator.prior.sample(rng, BLOCK), rng)

    return BLOCK / statistics.median(seconds(block, 50) for _ in range(REPEATS))


def references(simulator: simulators.Simulator, name: str) -> dict[str, float]:
    """Return median and largest CPU seconds of 1000 draws over observations."""
    rng = np.random.default_rng(1)
    observations = [
        simulator.simulate(simulator.prior.sample(rng, 1)[0], rng) for _ in range(OBSERVATIONS)
    ]
    simulator.reference(observations[0], 10, rng, name)  # what is prepared once
    measured = [seconds(lambda x=x: simulator.reference(x, 1000, rng, name)) for x in observations]
    return {"median": statistics.median(measured), "largest": max(measured)}


def program_seconds() -> float:
    """Return the median seconds of one simulation by a program that does nothing else."""
    program = simulators.load(
        "program",
        command=["sh", "-c", "echo {mu} > output.json"],
        output="output.json",
        prior={"mu": simulators.Uniform(0, 1)},
    )
    theta, rng = np.array([0.5]), np.random.default_rng(0)
    return statistics.median(
        seconds(lambda: program.simulate(theta, rng, timeout=60), clock=time.perf_counter)
        for _ in range(30)
    )


def main() -> None:
    """Print one JSON object."""
    result: dict[str, Any] = {"program_wall_seconds": program_seconds()}
    for name in NAMES:
        simulator = simulators.load(name)
        result[name] = {
            "simulations_per_cpu_second": rate(simulator),
            "cpu_seconds_per_1000_draws": {
                r: references(simulator, r) for r in simulator.references
            },
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
