"""Does more data help? A study's learning curves are fitted to its smaller budgets and checked at its largest.

    python -m benchmarks.learning_curve                                  two moons: 512 to 2048, then 8192
    python -m benchmarks.learning_curve STUDY.yaml -o FOLDER --share     another study; without Ray

Runs what is missing of the study. Prints one JSON object for each curve: what was forecast for the largest budget
with its 90 % band, the outcome with its standard error, and whether it lies in the band or within two standard
errors of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.stop import stop_on_signals
from pipeline.study import schema, stage
from pipeline.study.curve import fitted

STUDY = Path("studies/learning_curve/two_moons.yaml")


def check(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield forecast and outcome of each curve.

    Arguments:
        rows: `cases` of `study.json`.
    """
    rows = [row for row in rows if row["state"] == "complete"]
    largest = max(row["budget"] for row in rows)
    for known in fitted(row for row in rows if row["budget"] < largest):
        whole = next(
            one
            for one in fitted(rows)
            if (one.metric, one.axes, one.sampling_steps)
            == (known.metric, known.axes, known.sampling_steps)
        )
        told, outcome, error = known.forecast(largest), whole.means[-1], whole.errors[-1]
        inside = told["low"] - 2 * error <= outcome <= told["high"] + 2 * error
        yield {
            "metric": known.metric,
            "axes": known.axes,
            "budgets": known.budgets.astype(int).tolist(),
            "means": np.round(known.means, 4).tolist(),
            "seeds": known.seeds.tolist(),
            **{k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()},
            "outcome": round(float(outcome), 4),
            "outcome_error": round(float(error), 4),
            "in_band": bool(told["low"] <= outcome <= told["high"]),
            "within_noise": bool(inside),
        }


def main() -> None:
    """Run the study and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", type=Path, default=STUDY)
    parser.add_argument("-o", "--out", type=Path, help="folder of the study")
    parser.add_argument("--share", action="store_true", help="without Ray, one of many processes")
    given = parser.parse_args()
    plan = schema.read(given.study)
    folder = given.out or Path("studies/out/learning_curve") / given.study.stem
    with stop_on_signals() as stop:
        result = (stage.share if given.share else stage.study)(plan, folder, stop)
    for row in check(result["cases"]):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
