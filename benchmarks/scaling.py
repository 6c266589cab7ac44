"""How simulations scale from one worker to two, and what a driver spends on each unit.

`python -m benchmarks.scaling`: both layouts, in one run, alternately; prints one JSON object. The ratio is that
of rates between the first unit handed out and the last booked, medians of `REPEATS`; `forecast_ratio` is what
`pipeline.schedule` says about the same work with the cost of a message measured here.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import config as configuration
from pipeline.leases.stage import simulate as by_leases
from pipeline.run import Run
from pipeline.schedule import Rates, Workload, forecast
from pipeline.simulate import simulate as by_ray
from pipeline.simulation import work
from pipeline.simulation.calls import Worker
from pipeline.stop import Stop

REPEATS = 3
SECONDS, COUNT = 0.05, 120  # of core time of one simulation; simulations of one measurement
QUICK = 4000  # simulations that do nothing, for the driver's own time
UNIT = 0.001  # seconds of a unit of them
LAYOUTS: dict[str, Callable[..., Any]] = {"ray": by_ray, "array": by_leases}
SIMULATOR = """
import time
import numpy as np
from simulators import Normal, simulator


@simulator(prior={"a": Normal(0, 1)})
def busy(a, rng, seconds=0.0):
    end = time.process_time() + SECONDS
    while time.process_time() < end:
        pass
    return {"x": np.array([a]) + rng.normal(size=1)}
"""


def run(layout: str, seconds: float, count: int, workers: int) -> tuple[float, float, int]:
    """Return wall seconds of the simulations, core seconds of this process, and units handed out."""
    sent: Counter[str] = Counter()
    send = Worker.send

    def counted(self: Worker, method: str, *arguments: Any, unit: int = -1) -> None:
        sent[method] += 1
        send(self, method, *arguments, unit=unit)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "busy.py").write_text(SIMULATOR.replace("SECONDS", str(seconds)))
        config = configuration.build(
            {
                "name": "scaling",
                "simulator": f"{folder / 'busy.py'}:busy",
                "budget": count,
                "simulate": {"workers": workers, "leases": 64},
            }
        )
        Worker.send = counted  # type: ignore[method-assign]
        began = time.process_time()
        try:
            result = LAYOUTS[layout](config, Run(folder / "run"), stop=Stop())
        finally:
            Worker.send = send  # type: ignore[method-assign]
        return result.seconds, time.process_time() - began, sent["run"]


def scaling(layout: str) -> dict[str, float]:
    """Return the rates with one and two workers, and their ratio."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for workers, found in walls.items():
            found.append(run(layout, SECONDS, COUNT * workers, workers)[0])
    one, two = (COUNT * workers / statistics.median(walls[workers]) for workers in (1, 2))
    return {"rate_1": one, "rate_2": two, "ratio": two / one}


def overhead(layout: str) -> dict[str, float]:
    """Return the driver's core seconds for each unit, with units so short that there are many."""
    before = work.TARGET, work.LEAST
    work.TARGET = work.LEAST = UNIT
    try:
        _, few, many = (run(layout, 0.0, count, 1) for count in (10, 10, QUICK))  # first: imports
    finally:
        work.TARGET, work.LEAST = before
    return {
        "units": many[2],
        "unit_us": 1e6 * max(0.0, many[1] - few[1]) / max(1, many[2] - few[2]),
    }


def main() -> None:
    """Measure and print."""
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    for layout in LAYOUTS:
        found = {**scaling(layout), **overhead(layout)}
        rates = replace(Rates(), message=found["unit_us"] / 1e6)
        walls = [
            forecast(Workload(COUNT * n, SECONDS, 100.0, variation=0.01, leases=64), n, rates)[
                layout
            ].wall_seconds
            for n in (1, 2)
        ]
        result[layout] = {**found, "forecast_ratio": 2 * walls[0] / walls[1]}
    print(json.dumps({"benchmark": "scaling", **result, "load_after": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
