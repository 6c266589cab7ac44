"""sbiflow, sbi and BayesFlow side by side: speed of training, accuracy, seconds for draws.

Every training runs in a process of its own, on one core with one thread; the peers in an environment
that is made for them. C2ST is sbibm's, on its ten observations with 1000 draws, and always computed
here. Seconds are those of the processor and of the clock. Every training adds one line to `--out`; what
is there already is not repeated, so that a run can be continued.

    python -m benchmarks.peers --contests steps --seeds 0 1 2
    python -m benchmarks.peers --contests two_moons_1024 --packages sbiflow bayesflow-jax
    python -m benchmarks.peers --table
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.estimators import TASKS, Benchmark
from benchmarks.peers.contests import CONTESTS, Contest, Entry
from benchmarks.peers.environment import WORKERS, prepare, work
from benchmarks.peers.exchange import PeerTask
from benchmarks.peers.table import table
from evaluation.c2st import SBIBM, c2st_batch

CACHE = Path("runs/peers")


def main() -> None:
    """Train and measure what was asked for, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [contest.name for contest in CONTESTS]
    parser.add_argument("--contests", nargs="+", default=names, choices=names)
    parser.add_argument("--packages", nargs="+", default=list(WORKERS), choices=list(WORKERS))
    parser.add_argument("--entries", nargs="+", help="only these, by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--env", type=Path, default=CACHE / ".venv", help="of the peers")
    parser.add_argument("--out", type=Path, default=CACHE / "peers.jsonl")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        os.sched_setaffinity(0, {asked.core})
        _run(asked)
    print(table(_read(asked.out)))


def _run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    peers = prepare(asked.env)
    done = {_key(line) for line in _read(asked.out)}
    for contest in (contest for contest in CONTESTS if contest.name in asked.contests):
        task = next(task for task in TASKS if task.name == contest.task)
        bench = Benchmark(task, asked.out.parent / "references")
        entries = [e for e in contest.entries if e.package in asked.packages]
        entries = [e for e in entries if asked.entries is None or e.name in asked.entries]
        for seed, entry in itertools.product(asked.seeds, entries):
            line = {"contest": contest.name, "package": entry.package, "entry": entry.name}
            line |= {"seed": seed, "arguments": entry.arguments, "passes": entry.passes}
            if _key(line) in done:
                continue
            line |= measure(bench, contest, entry, seed, peers, asked.out.parent / "job")
            line["core"] = asked.core
            print(json.dumps(line), flush=True)
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def measure(
    bench: Benchmark, contest: Contest, entry: Entry, seed: int, peers: Path, folder: Path
) -> dict[str, Any]:
    """Return a worker's report on one training, with C2ST by the number of passes.

    Arguments:
        bench: simulations and references of the contest's task.
        seed: of simulations and training.
        peers: interpreter of the peers' environment.
        folder: for the worker's files; emptied first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    theta, x = bench.simulations(contest.budget, seed)
    prior, observed = bench.simulator.prior, bench.observed("sbibm")["x"]
    told = entry.method, entry.arguments, seed, entry.passes
    PeerTask(folder, *told, theta, x["x"], observed, prior.low, prior.high, contest.task).write()
    work(entry.package, peers, folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    with np.load(folder / "draws.npz") as draws:
        for passes, cost in report["drawing"].items():
            cost["c2st"] = _c2st(bench, draws[passes])
    return report


def _c2st(bench: Benchmark, draws: np.ndarray) -> float | None:
    """Return the mean over the observations, None where draws are not finite."""
    if not np.isfinite(draws).all():
        return None
    scores = c2st_batch(bench.reference("sbibm"), draws, definition=SBIBM)
    return round(float(scores.mean()), 5)


def _key(line: dict[str, Any]) -> str:
    names = "contest", "package", "entry", "seed", "arguments", "passes"
    return json.dumps([line[name] for name in names], sort_keys=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
