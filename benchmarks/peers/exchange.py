"""Files that the processes of a comparison exchange: a folder for each training of a package.

    job.json      what to train: method, arguments, seed, passes    (written by the main process)
    rows.npz      theta, x, observed x, low, high                   (the same)
    draws.npz     one array (B, n, D) for each entry of `passes`    (written by the worker)
    report.json   seconds, versions                                 (the same)

Needs numpy alone, so that it runs beside any package.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

DRAWS = 1000
REPEATS = 3  # of a timed call, behind a first one that may compile
LONG = 10.0  # seconds of a first call that is not repeated

Sample = Callable[[np.ndarray, int, "int | None"], np.ndarray]


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of the processor and of the clock."""

    processor: float
    wall: float

    @classmethod
    def now(cls) -> TimeSpent:
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, other: TimeSpent) -> TimeSpent:
        return TimeSpent(self.processor - other.processor, self.wall - other.wall)


class Stopwatch:
    """Notes what was spent at each step that it is told of; the first is the end of the warm-up."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, TimeSpent]] = [(0, TimeSpent.now())]

    def note(self, step: int) -> None:
        """Note that `step` steps are done."""
        self.marks.append((step, TimeSpent.now()))

    def rate(self, first: int, last: int) -> dict[str, float]:
        """Return steps per second between two marks, by their positions."""
        steps = self.marks[last][0] - self.marks[first][0]
        spent = self.marks[last][1] - self.marks[first][1]
        return {"processor": steps / spent.processor, "wall": steps / spent.wall}

    def report(self) -> dict[str, Any]:
        """Return seconds of the training, of the warm-up, and steps per second behind it."""
        return {
            "steps": self.marks[-1][0],
            "training_s": vars(self.marks[-1][1] - self.marks[0][1]),
            "warm_up": {"steps": self.marks[1][0], **vars(self.marks[1][1] - self.marks[0][1])},
            "steps_per_s": self.rate(1 if len(self.marks) > 2 else 0, -1),
        }


@dataclass(frozen=True)
class PeerTask:
    """One training, as the worker sees it."""

    folder: Path
    method: str
    arguments: Mapping[str, Any]
    seed: int
    passes: tuple[int | None, ...]
    theta: np.ndarray
    x: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    task: str

    @classmethod
    def read(cls, folder: Path) -> PeerTask:
        """Read what `write` wrote."""
        given = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        with np.load(folder / "rows.npz") as rows:
            return cls(folder, **{**given, "passes": tuple(given["passes"])}, **dict(rows))

    def write(self) -> None:
        """Write the job into its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {n: getattr(self, n) for n in ("method", "arguments", "seed", "passes", "task")}
        (self.folder / "job.json").write_text(json.dumps(told), encoding="utf-8")
        rows: dict[str, Any] = {
            n: getattr(self, n) for n in ("theta", "x", "observed", "low", "high")
        }
        np.savez(self.folder / "rows.npz", **rows)

    def finish(self, sample: Sample, packages: tuple[str, ...], trained: Mapping[str, Any]) -> None:
        """Draw, note what that costs, and write the draws and the report.

        Arguments:
            sample: (x (B, ...), n, passes) -> draws (B, n, D).
            packages: whose versions to note.
            trained: what training told.
        """
        draws: dict[str, Any] = {}
        costs = {}
        for passes in self.passes:
            drawn, cost = _drawn(sample, self.observed, passes)
            draws[str(passes)], costs[str(passes)] = drawn, cost
        np.savez(self.folder / "draws.npz", **draws)
        versions = {"python": platform.python_version()} | {
            name: version(name) for name in packages
        }
        report = {**trained, "drawing": costs, "versions": versions}
        (self.folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _drawn(
    sample: Sample, observed: np.ndarray, passes: int | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return draws for all observations, and seconds per 1000 draws: together, and for one alone."""
    cost: dict[str, Any] = {}
    for name, x in (("one", observed[:1]), ("together", observed)):
        calls: list[TimeSpent] = []
        while len(calls) < (1 + REPEATS if not calls or calls[0].processor < LONG else 1):
            began = TimeSpent.now()
            draws = sample(x, DRAWS, passes)
            calls.append(TimeSpent.now() - began)
        cost[f"{name}_first_call_s"] = calls[0].processor
        for clock in ("processor", "wall"):
            seconds = median(getattr(call, clock) for call in calls[1:] or calls)
            cost[f"{name}_{clock}_s"] = seconds / len(x) * 1000 / DRAWS
    return draws, cost
