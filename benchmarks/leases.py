"""Leases while their processes are killed at random, and the cost of a lease.

`python -m benchmarks.leases [WORKERS [AT_ONCE]]`: 200 short-lived processes, all at once unless said otherwise,
simulate one store; most are killed at random (SIGKILL), and the clock of each is wrong by up to a minute. In the
end every id must be there exactly once, as in an undisturbed run. Then the cost of a lease on this disk. One JSON
object is printed; exit code 1 unless every check passed.

The processes are forked from this one, which has imported everything: only the interpreter's start is left out.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config as configuration
from pipeline.config import Config
from pipeline.run import RunDirectory
from pipeline.simulate.actor import SimulationActor
from pipeline.simulate.children import die_with_parent
from pipeline.simulate.leases import stage
from pipeline.simulate.leases.lease import LeaseHolder, LeaseTable
from pipeline.simulate.process_pool import ProcessPool, serve
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import schema_of
from pipeline.stop import Stop
from pipeline.store import Spool, Store, Writer

WORKERS = 200
KILLED = 0.7  # share of the processes
IDS, LEASES, TERM = 40, 8, 4.0  # of each process; seconds
SKEW = 60.0  # seconds
PATIENCE = 600.0
SIMULATOR = """
import os, time
import numpy as np
from simulators import Normal, simulator

CALLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "calls")


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)})
def noisy(a, b, rng):
    handle = os.open(CALLS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b".")
    os.close(handle)
    time.sleep(0.004)
    return {"x": np.array([a, b]) + 0.5 * rng.normal(size=2)}
"""


class _Child:
    """A forked process with what `ProcessPool` needs of one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Forked(ProcessPool):
    """Workers that need not import anything."""

    def _start(self, connection: Connection, name: str) -> Any:
        driver, pid = os.getpid(), os.fork()
        if pid:
            return _Child(pid)
        die_with_parent()  # it has the driver's ends of all pipes: no end of file tells it
        if os.getppid() != driver:
            os._exit(0)
        serve(connection, SimulationActor(name))
        os._exit(0)


def configure(folder: Path, budget: int, leases: int, term: float) -> Config:
    (folder / "noisy.py").write_text(SIMULATOR)
    return configuration.build(
        {
            "name": "leases",
            "simulator": f"{folder / 'noisy.py'}:noisy",
            "budget": budget,
            "simulate": {"workers": 1, "leases": leases, "term": term},
        }
    )


def begin(config: Config, run: RunDirectory) -> int:
    """Start a process that takes part, with a clock of its own; return its number."""
    skew = random.uniform(-SKEW, SKEW)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + skew
        time.time_ns = lambda: real_ns() + int(skew * 1e9)
        stage.ProcessPool = Forked  # type: ignore[misc]
        stage.simulate(config, run, stop=Stop())
        code = 0
    finally:
        os._exit(code)


def run_waves(config: Config, run: RunDirectory, workers: int, wave: int) -> dict[str, Any]:
    """Let so many processes take part, a wave at a time, and kill most of them."""
    began, killed, failed, started = time.monotonic(), 0, 0, 0
    deadlines: dict[int, float] = {}
    while started < workers or deadlines:
        if started < workers and len(deadlines) < wave:
            doomed = started < 0.9 * workers and random.random() < KILLED
            lives = random.expovariate(1 / 1.5) if doomed else PATIENCE
            deadlines[begin(config, run)] = time.monotonic() + lives
            started += 1
        else:
            time.sleep(0.01)
        for pid, deadline in list(deadlines.items()):
            if time.monotonic() > deadline:
                assert deadline - began < PATIENCE, "a process did not end: a lease is stuck"
                os.kill(pid, signal.SIGKILL)
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                del deadlines[pid]
                killed += os.WIFSIGNALED(status)
                failed += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
    return {"workers": workers, "at_once": wave, "killed": killed, "failed": failed,
            "seconds": time.monotonic() - began}  # fmt: skip


def undisturbed(config: Config, folder: Path) -> str:
    """Return the digest of the rows computed one after the other."""
    simulation = spec_of(config, "train")
    rows = [simulation.run(np.array([number])) for number in range(config.budget)]
    store = Store.create(folder, identity(simulation), schema_of(rows[0], frozenset()))
    with Writer(store) as writer, Spool(writer.spool_directory, "a", store.schema, 10**6) as spool:
        for row in rows:
            spool.append(row)
    return store.digest(config.budget)


def stress(workers: int, wave: int, budget: int, leases: int, term: float = TERM) -> dict[str, Any]:
    """Run with random kills and return the result; `held` is whether every check passed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config, run = configure(folder, budget, leases, term), RunDirectory(folder / "run")
        configuration.save(config, run)
        result = run_waves(config, run, workers, wave)
        calls = (folder / "calls").stat().st_size
        store = Store.open(run.store("train"))
        size = -(-budget // min(leases, budget))
        most = 2 * size * result["killed"]  # a process has one block running and one queued
        result |= {
            "ids": budget,
            "leases": min(leases, budget),
            "repeated": calls - budget,
            "repeated_at_most": most,
            "missing": len(store.missing(budget)),
            "rows_stored": sum(len(shard) for shard in store.index.shards),
            "left_over": len(list((store.path / "sessions").iterdir()))
            + len(list((store.path / "leases").iterdir())),
            "digest_is_that_of_a_quiet_run": store.digest(budget)
            == undisturbed(config, folder / "undisturbed"),
        }
        result["held"] = bool(
            result["rows_stored"] == budget
            and not result["missing"]
            and not result["left_over"]
            and not result["failed"]
            and result["repeated"] <= most
            and result["digest_is_that_of_a_quiet_run"]
        )
        return result


def cost(blocks: int = 2000, repeats: int = 5) -> dict[str, float]:
    """Return what a lease costs on this disk: taken and done, looked at, found expired."""
    took, looked, judged = [], [], []
    for _ in range(repeats):
        with (
            tempfile.TemporaryDirectory() as folder,
            LeaseHolder(Path(folder), 60.0, "one") as holder,
        ):
            names = [f"{block:06d}" for block in range(blocks)]
            took.append(_each(holder.take, names) + _each(holder.done, names[::2]))
            looked.append(clock(holder.read))
            rest = [(name, 0) for name in names[1::2]]
            judged.append(
                clock(partial(list, LeaseTable(holder.folder, 60.0).expired(rest))) / len(rest)
            )
    return {
        "lease_us": 1e6 * statistics.median(took),
        "look_us_per_entry": 1e6 * statistics.median(looked) / blocks,
        "expiry_us": 1e6 * statistics.median(judged),
    }


def _each(call: Callable[[str], Any], names: list[str]) -> float:
    """Return the seconds of one call."""
    return clock(lambda: [call(name) for name in names]) / len(names)


def clock(call: Callable[[], Any]) -> float:
    """Return the seconds of a call, less those that this thread was ready and waited for a core."""
    began, waited = time.perf_counter(), _waited()
    call()
    return time.perf_counter() - began - (_waited() - waited)


def _waited() -> float:
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def main() -> None:
    """Measure and print."""
    words = [int(word) for word in sys.argv[1:]]
    workers = words[0] if words else WORKERS
    held = stress(workers, words[1] if len(words) > 1 else workers, IDS * workers, LEASES * workers)
    print(json.dumps({"benchmark": "leases", **held, **cost(), "load": os.getloadavg()[0]}))
    sys.exit(not held["held"])


if __name__ == "__main__":
    main()
