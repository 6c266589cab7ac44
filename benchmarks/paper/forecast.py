"""The learning curve checked on the CMPE paper's own figures: from budgets up to 2048, what is C2ST at 8192?

Each figure of `studies/paper/published.yaml` is one training; its standard error over the test sets, 0.006, stands
for the spread between trainings.

    python -m benchmarks.paper.forecast
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks.paper.report import STUDIES
from pipeline.study.curve import LearningCurve

METRIC = "c2st_paper.mean"
KNOWN, AHEAD, ERROR, FREEDOM = 3, 8192, 0.006, 100


def check(published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each method of each experiment the forecast, its band, and the outcome."""
    rows = []
    for task, one in published.items():
        budgets = np.array(one["budgets"], float)
        for method, values in one["c2st"].items():
            errors, seeds = np.full(KNOWN, ERROR), np.ones(KNOWN, int)
            curve = LearningCurve(
                METRIC, {}, None, budgets[:KNOWN], np.array(values[:KNOWN]), errors, FREEDOM, seeds
            )
            told = curve.forecast(AHEAD)
            outcome = values[one["budgets"].index(AHEAD)]
            inside = bool(told["low"] - ERROR <= outcome <= told["high"] + ERROR)
            rows.append(
                {"task": task, "method": method, **told, "outcome": outcome, "inside": inside}
            )
    return rows


def main() -> None:
    """Print one JSON object for each forecast, and how many outcomes were within band and noise."""
    rows = check(YAML(typ="safe", pure=True).load((STUDIES / "published.yaml").read_text()))
    for row in rows:
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))
    error = float(np.mean([abs(row["mean"] - row["outcome"]) for row in rows]))
    print(
        json.dumps({"inside": sum(r["inside"] for r in rows), "of": len(rows), "mean_error": error})
    )


if __name__ == "__main__":
    main()
