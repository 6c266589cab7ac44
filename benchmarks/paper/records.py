"""What was measured of the paper's studies: JSON lines, one for each case and number of sampling steps.

`studies/paper/results/EXPERIMENT.jsonl` is kept with the code, so that a repeat does only what is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import simulators
from pipeline.study.case import StudyCase
from pipeline.study.results import measured

DIGITS = 6
ARM = "inverse_kinematics"


class Records:
    """The lines of a file, in its order.

    Arguments:
        path: of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    @property
    def settings(self) -> set[str]:
        """Hashes of the settings of all cases that are there."""
        return {row["settings"] for row in self.rows}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to the file."""
        new = [dict(row) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        self.rows += new


def rows_of(case: StudyCase, plan: str) -> list[dict[str, Any]]:
    """Return the lines of a case, none where it is not complete."""
    if (results := case.finished()) is None:
        return []
    done, evaluated, arrays = results.done() or {}, results.evaluated() or {}, results.draws() or {}
    found = []
    for one in measured(evaluated):
        metrics, steps = one["metrics"], one["sampling_steps"]
        row = {
            "plan": plan,
            "method": case.labels["case"],
            "sampling_steps": steps,
            "budget": int(case.labels["budget"]),
            "seed": case.config.seed,
            "tests": case.config.test,
            "c2st": metrics.get("c2st_paper.mean"),
            "c2st_sem": metrics.get("c2st_paper.sem"),
            "max_ece": metrics.get("ece.max"),
            "seconds_per_1000": metrics.get("seconds.median"),
            "training_seconds": done["seconds"],
            "training_steps": done["steps"],
            "settings": case.digest,
        }
        if case.config.simulator.name == ARM:
            row["resimulation"] = resimulation_error(arrays["theta"], arrays[f"draws_{steps}"])
        found.append({k: round(v, DIGITS) if isinstance(v, float) else v for k, v in row.items()})
    return found


def resimulation_error(theta: np.ndarray, draws: np.ndarray) -> float:
    """Return the mean distance between the arm's end points at draws and the observed ones.

        mean over sets and draws of (sum_k |x_k(draw) - x_k(theta)|^4)^(1/4)

    as in the CMPE paper's code; the arm has no noise.

    Arguments:
        theta: true parameters, shape (B, 4).
        draws: of the posteriors, shape (B, n, 4).
    """
    arm, rng = simulators.load(ARM), np.random.default_rng(0)
    ends = arm.simulate_block(np.asarray(draws, float).reshape(-1, 4), rng)["x"]
    observed = arm.simulate_block(np.asarray(theta, float), rng)["x"]
    gaps = np.abs(ends.reshape(*draws.shape[:2], -1) - observed[:, None])
    return float(((gaps**4).sum(-1) ** 0.25).mean())
