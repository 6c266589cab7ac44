"""Kill workers, agents, drivers and all of Ray at random times, repeat, and compare with an undisturbed run.

    python -m benchmarks.chaos_simulate --kills 18 --workers 1 2 4

Every call of the simulator leaves a line in a log, so that repeated simulations can be counted, and which process
lost them. Prints one JSON object; exit code 1 unless all digests are equal, each id is there once, no more was
simulated again than was in flight, and no process lost more than the one simulation that it was at.
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
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.connection import usable_cpus
from pipeline.config import build
from pipeline.run import RunDirectory
from pipeline.simulate.driver import PROBES
from pipeline.simulate.spawn import POOL
from pipeline.simulate.stage import simulate
from pipeline.stop import stop_on_signals
from pipeline.store import Store

SIMULATOR = """
import os, time
from simulators import Uniform, simulator

CALLS = os.environ["CHAOS_CALLS"]

@simulator(prior={"mu": Uniform(-3, 3), "sigma": Uniform(0.1, 2)})
def slow(mu, sigma, rng):
    with open(CALLS, "ab", buffering=0) as log:
        log.write(f"{mu!r} {os.getpid()} {time.time():.3f}\\n".encode())
    time.sleep(0.01 + rng.exponential(0.03))
    return {"x": rng.normal(mu, sigma, 10)}
"""

PATIENCE = 120.0  # seconds without a new simulation: hanging
MOST_CALLS = 12  # between two kills
WEIGHTS = {"worker": 4, "agent": 2, "driver": 2, "ray": 2}  # of what is killed


@dataclass
class Chaos:
    """One run that is killed now and then: where it is, how many workers, and what was done to it."""

    folder: Path
    workers: int
    budget: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0))
    in_flight: int = 0  # simulations that the kills may have cost
    held: set[int] = field(default_factory=set)  # workers killed while rows were held back
    attempts: int = 0
    slowest_exit: float = 0.0  # seconds from a kill of Ray to the driver's end

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")

    @property
    def log(self) -> Path:
        return self.folder / "calls.txt"

    def calls(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def lost(self) -> Counter[int]:
        """Return how many simulations of each process another one had to repeat."""
        lines = self.log.read_text(encoding="ascii").splitlines() if self.log.exists() else []
        calls = [line.split()[:2] for line in lines]
        final = {theta: number for number, (theta, _) in enumerate(calls)}
        return Counter(int(pid) for k, (theta, pid) in enumerate(calls) if final[theta] != k)

    def done(self) -> int:
        path = self.run.store("train")
        return Store.open(path).counts()["done"] if (path / "store.json").exists() else 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start a driver; it is a process of its own, as in real life."""
        self.folder.mkdir(exist_ok=True)
        (self.folder.parent / "slow.py").write_text(SIMULATOR)
        self.attempts += 1
        words = ["--child", str(self.folder), "--workers", str(self.workers)]
        words += ["--budget", str(self.budget)]
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.chaos_simulate", *words],
                stdout=log,
                stderr=log,
                env=os.environ | {"CHAOS_CALLS": str(self.log), "OMP_NUM_THREADS": "1"},
            )

    def kill_at_random(
        self, driver: subprocess.Popen[bytes], rng: random.Random, fresh: bool
    ) -> None:
        """Kill something after a few more simulations, or now and then while the driver starts."""
        if fresh and rng.random() < 0.3:
            self._wait_for(1, driver, rng.uniform(0, 10))
        elif not self._wait_for(rng.randint(1, MOST_CALLS), driver, PATIENCE):
            raise SystemExit(f"no simulation for {PATIENCE:g} s: see {self.folder}/driver.log")
        time.sleep(rng.uniform(0, 0.06))
        what = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        below = descendants(driver.pid)
        workers = [pid for pid in below if POOL in name_of(pid)]
        agents = [pid for pid in below if name_of(pid).startswith("ray::Simul")]
        victims = {"worker": workers, "agent": agents, "driver": [driver.pid], "ray": below}[what]
        if driver.poll() is not None or not victims:
            return
        born = self.done() > 0  # before, the first few simulations are held back
        if not born:
            self.held |= set(workers)
        kill(victims if what == "ray" else [rng.choice(victims)])
        each = 1 if what == "worker" else self.workers
        self.in_flight += each if born else PROBES + each - 1
        if what in ("driver", "ray"):
            struck = time.monotonic()
            driver.wait(PATIENCE)
            self.slowest_exit = max(self.slowest_exit, time.monotonic() - struck)
        self.kills[what] += 1

    def _wait_for(self, calls: int, driver: subprocess.Popen[bytes], patience: float) -> bool:
        """Wait for so many more calls or the driver's end; False if neither came."""
        wanted, deadline = self.calls() + calls, time.monotonic() + patience
        while self.calls() < wanted and driver.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def go(self, kills: int, rng: random.Random) -> dict[str, Any]:
        """Repeat the command until it ends by itself; return what came out."""
        driver = self.start()
        while True:
            fresh = True
            while driver.poll() is None and sum(self.kills.values()) < kills:
                self.kill_at_random(driver, rng, fresh)
                fresh = False
            if driver.wait(600) == 0:
                break
            driver = self.start()
        return self.result()

    def result(self) -> dict[str, Any]:
        store = Store.open(self.run.store("train"))
        repeats = self.calls() - self.budget
        lost = [number for pid, number in self.lost().items() if pid not in self.held]
        return {
            "workers": self.workers,
            "kills": self.kills,
            "attempts": self.attempts,
            "digest": store.digest(),
            "ids_once": store.ids().tolist() == list(range(self.budget)),
            "repeated": repeats,
            "in_flight": self.in_flight,
            "most_lost_by_a_process": max(lost, default=0),
            "driver_gone_s": round(self.slowest_exit, 2),
            "shards": len(store.shards()),
        }


def descendants(pid: int) -> list[int]:
    """Return all processes below one, children before grandchildren."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop(0)
        for path in Path("/proc", str(parent), "task").glob("*/children"):
            with suppress(OSError):
                waiting += [int(child) for child in path.read_text().split()]
        found += [parent] if parent != pid else []
    return found


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace")
    return ""


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def child(folder: Path, workers: int, budget: int) -> None:
    """Be the driver of one attempt."""
    config = build(
        {
            "name": "chaos",
            "simulator": f"{folder.parent / 'slow.py'}:slow",
            "budget": budget,
            "simulate": {
                "workers": workers,
                "cpus": min(1.0, usable_cpus() / workers),
                "ray": True,
            },
        }
    )
    with stop_on_signals() as stop:
        simulate(config, RunDirectory(folder / "run"), stop=stop)


def compare(
    folder: Path, workers: list[int], kills: int, budget: int, seed: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Compare runs that are killed at random times with an undisturbed one of a single worker."""
    undisturbed = Chaos(folder / "undisturbed", 1, budget).go(0, random.Random(seed))
    log(json.dumps(undisturbed))
    runs = []
    for number in workers:
        chaos = Chaos(folder / f"workers-{number}", number, budget)
        runs.append(chaos.go(kills, random.Random(seed + number)))
        log(json.dumps(runs[-1]))
    return {
        "benchmark": "chaos_simulate",
        "budget": budget,
        "kills": sum(sum(run["kills"].values()) for run in runs),
        "equal_digests": all(run["digest"] == undisturbed["digest"] for run in runs),
        "each_id_once": all(run["ids_once"] for run in [undisturbed, *runs]),
        "only_in_flight_repeated": all(run["repeated"] <= run["in_flight"] for run in runs),
        "one_lost_by_a_process": all(run["most_lost_by_a_process"] <= 1 for run in runs),
        "runs": runs,
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or changed."""
    checks = ("equal_digests", "each_id_once", "only_in_flight_repeated", "one_lost_by_a_process")
    return all(result[check] for check in checks)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=18, help="of each run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help="internal")
    given = parser.parse_args()
    if given.child:
        child(given.child, given.workers[0], given.budget)
        return
    folder = Path(tempfile.mkdtemp(prefix="chaos-simulate-"))
    result = compare(
        *(folder, given.workers, given.kills, given.budget, given.seed),
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    if passed(result):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"see {folder}", file=sys.stderr)
    print(json.dumps(result))
    sys.exit(not passed(result))


if __name__ == "__main__":
    main()
