"""How long a worker is absent after a time-out, with and without a process that waits to take its place.

`python -m benchmarks.replacement`: one worker process, whose simulations hang now and then; alternately with a
spare process and without. Seconds from the alarm that ends the process to the next simulation, by the clock; the
first death of each run is left out, since the spare is started after it. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import build
from pipeline.run import RunDirectory
from pipeline.simulate.note import REARM
from pipeline.simulate.process_pool import ProcessPool
from pipeline.simulate.stage import simulate
from pipeline.stop import Stop

REPEATS, BUDGET, EVERY = 3, 120, 30  # runs of each kind; simulations; every how many one hangs
LIMIT, NAP = 0.5, 0.2  # seconds of the time-out, and of a simulation that does not hang
SIMULATOR = f"""
import os, time
from simulators import Uniform, simulator

LOG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "times")
calls = 0

@simulator(prior={{"u": Uniform(0, 1)}})
def hanging(u, rng):
    global calls
    calls += 1
    with open(LOG, "a") as file:
        file.write(f"{{os.getpid()}} {{time.time()}}\\n")
    time.sleep(100 if calls == {EVERY} else {NAP})
    return {{"x": u}}
"""


def absences(spare: bool) -> list[float]:
    """Return the seconds from each alarm but the first to the next simulation."""
    ProcessPool.spares = spare
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hanging.py").write_text(SIMULATOR)
        settings = {"workers": 1, "timeout": LIMIT, "ray": False}
        config = build(
            {
                "name": "replacement",
                "simulator": f"{folder / 'hanging.py'}:hanging",
                "budget": BUDGET,
                "test": 0,
                "max_failed": 1.0,
                "simulate": settings,
            }
        )
        simulate(config, RunDirectory(folder / "run"), stop=Stop())
        pid, began = np.loadtxt(folder / "times").T
    last = np.flatnonzero(np.diff(pid))
    return [float(s) for s in (began[last + 1] - began[last] - LIMIT - REARM)[1:]]


def main() -> None:
    """Measure and print."""
    found: dict[str, Any] = {"spare": [], "none": []}
    for _ in range(REPEATS):
        for name in found:
            found[name] += absences(name == "spare")
    shown = {f"{name}_ms": [round(1e3 * s) for s in times] for name, times in found.items()}
    medians = {f"median_{name}_ms": 1e3 * statistics.median(t) for name, t in found.items()}
    print(json.dumps({"benchmark": "replacement", **medians, **shown, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
