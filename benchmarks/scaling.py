"""How simulations scale from one worker to two, and what a driver spends on each block.

`python -m benchmarks.scaling [ray|array]...`: in one run, one and two workers alternately; prints one JSON object.
A simulation uses a fixed amount of processor time. Two ratios of rates, medians of `REPEATS` pairs:

* `wall_ratio`: by the clock, from the first simulation's start to the last one's end. On a machine that is busy
  with other work it measures that work.
* `granted_ratio`: by the time that the machine granted. Linux counts for how long a thread was ready and waited
  for a core; what is left of a worker's time is work, and idleness that is our fault, the end of the run included.
  With n simulations of worker w in the interval from its first to the end of the run,

    rate = sum_w n_w / (interval_w - waited_w)

`forecast_ratio` is what `pipeline.simulate.forecast` says about the same work with the cost of a message that was
measured here.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config as configuration
from pipeline.run import RunDirectory
from pipeline.simulate import stage, work
from pipeline.simulate.calls import Worker
from pipeline.simulate.driver import Driver
from pipeline.simulate.forecast import Rates, Workload, forecast
from pipeline.simulate.leases.stage import simulate as by_leases
from pipeline.simulate.stage import simulate as by_ray
from pipeline.stop import Stop

REPEATS = 5
SECONDS, COUNT = 0.05, 160  # of core time of one simulation; simulations of each worker
QUICK = 4000  # simulations that do nothing, for the driver's own time
BLOCK = 0.001  # seconds of a block of them
LAYOUTS: dict[str, Callable[..., Any]] = {"ray": by_ray, "array": by_leases}
SIMULATOR = """
import os, time
import numpy as np
from simulators import Normal, simulator

NOTES = os.path.dirname(os.path.abspath(__file__))
_note = None


def note(began):
    global _note
    if _note is None:
        _note = open(os.path.join(NOTES, f"{os.getpid()}.times"), "a", buffering=1)
    with open("/proc/thread-self/schedstat") as file:
        waited = int(file.read().split()[1])
    _note.write(f"{began} {time.monotonic()} {waited / 1e9}\\n")


@simulator(prior={"a": Normal(0, 1)})
def busy(a, rng):
    began = time.monotonic()
    end = time.thread_time() + BUSY
    time.sleep(NAP)
    while time.thread_time() < end:
        pass
    if NOTED:
        note(began)
    return {"x": np.array([a]) + rng.normal(size=1)}
"""


@dataclass(frozen=True)
class Measured:
    """One run: `wall` and `granted` rates of its simulations, and what the driver did.

    `driver` core seconds of this process during the session, in `rounds` looks for answers, with `blocks` sent.
    """

    wall: float
    granted: float
    seconds: float
    driver: float
    rounds: int
    blocks: int


def run(
    layout: str, count: int, workers: int, busy: float = 0.0, nap: float = 0.0, cpus: float = 1.0
) -> Measured:
    """Simulate `count` times, `busy` core seconds and `nap` seconds of sleep each."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, _watched() as seen:
        folder = Path(name)
        text = SIMULATOR.replace("BUSY", str(busy)).replace("NAP", str(nap))
        (folder / "busy.py").write_text(text.replace("NOTED", str(bool(busy))))
        config = configuration.build(
            {
                "name": "scaling",
                "simulator": f"{folder / 'busy.py'}:busy",
                "budget": count,
                "simulate": {
                    "workers": workers,
                    "leases": 64,
                    "cpus": cpus,
                    "ray": True,
                    "per_agent": cpus,
                },
            }
        )
        LAYOUTS[layout](config, RunDirectory(folder / "run"), stop=Stop())
        wall, granted = _rates(folder) if busy else (0.0, 0.0)
        return Measured(wall, granted, **seen)


@contextmanager
def _watched() -> Iterator[dict[str, Any]]:
    """Count what sessions do meanwhile; the mapping is that of `Measured`, less the rates."""
    seen: dict[str, Any] = dict.fromkeys(("seconds", "driver", "rounds", "blocks"), 0)
    send, feed, session = Worker.send, Driver._hand_out, Driver.run

    def counted_send(self: Worker, method: str, *arguments: Any, block: int = -1) -> None:
        seen["blocks"] += method == "run"
        send(self, method, *arguments, block=block)

    def counted_feed(self: Driver) -> None:
        seen["rounds"] += 1
        feed(self)

    def timed(self: Driver, *arguments: Any) -> None:
        began, wall = time.process_time(), time.monotonic()
        session(self, *arguments)
        seen["driver"] += time.process_time() - began
        seen["seconds"] += time.monotonic() - wall

    Worker.send, Driver._hand_out = counted_send, counted_feed  # type: ignore[method-assign]
    Driver.run = timed  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        Worker.send, Driver._hand_out, Driver.run = send, feed, session  # type: ignore[method-assign]


def _rates(folder: Path) -> tuple[float, float]:
    """Return simulations per second of the clock, and per second that the machine granted.

    The first simulation of each worker only marks where its interval begins.
    """
    times = [np.loadtxt(path, ndmin=2) for path in folder.glob("*.times")]  # began, ended, waited
    end = max(rows[-1, 1] for rows in times)
    wall = sum(len(rows) - 1 for rows in times) / (end - min(rows[0, 1] for rows in times))
    granted = sum(
        (len(rows) - 1) / (end - rows[0, 1] - (rows[-1, 2] - rows[0, 2])) for rows in times
    )
    return float(wall), float(granted)


def scaling(layout: str) -> dict[str, Any]:
    """Return the ratios of rates with two workers and one: medians, and all of them."""
    pairs = []
    for _ in range(REPEATS):
        one, two = (run(layout, COUNT * workers, workers, SECONDS) for workers in (1, 2))
        pairs.append((two.wall / one.wall, two.granted / one.granted, one.granted))
    wall, granted, rate = (list(values) for values in zip(*pairs, strict=True))
    return {
        "wall_ratio": statistics.median(wall),
        "granted_ratio": statistics.median(granted),
        "efficiency_1": statistics.median(rate) * SECONDS,
        "wall_ratios": wall,
        "granted_ratios": granted,
    }


def overhead(layout: str) -> dict[str, float]:
    """Return the driver's core seconds for each block, with blocks so short that there are many."""
    with short_blocks():
        _, few, many = (run(layout, count, 1) for count in (10, 10, QUICK))  # first: imports
    blocks = many.blocks - few.blocks
    return {"blocks": blocks, "block_us": 1e6 * max(0.0, many.driver - few.driver) / max(1, blocks)}


@contextmanager
def short_blocks() -> Iterator[None]:
    """Make the driver's blocks as short as `BLOCK`, so that there are many."""
    before = work.TARGET, work.LEAST, stage.AGENT_TARGET
    work.TARGET = work.LEAST = stage.AGENT_TARGET = BLOCK
    try:
        yield
    finally:
        work.TARGET, work.LEAST, stage.AGENT_TARGET = before


def main() -> None:
    """Measure and print."""
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    for layout in sys.argv[1:] or LAYOUTS:
        found = {**scaling(layout), **overhead(layout)}
        rates = replace(Rates(), message=found["block_us"] / 1e6)
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
