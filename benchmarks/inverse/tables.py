"""Tables of the results, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.inverse.mechanism import SIGMAS
from benchmarks.inverse.methods import METHODS
from benchmarks.inverse.neural import VARIANTS, NeuralPlan
from benchmarks.inverse.record import MeasuredLog

SCORES = ("coverage", "sliced", "mean", "sd", "c2st")


def exact(case: str, passes: int, record: MeasuredLog) -> str:
    """Return the ranking of all methods on a case, by sliced distance."""
    rows = []
    floors = [one for key, one in record.known.items() if key.startswith(f"{case} exact ")]
    rows += [_row("exact draws", [floor]) for floor in floors[-1:]]
    found = {
        method: [
            one
            for key, one in record.known.items()
            if key.startswith(f"{case} {method} {passes} seed ")
        ]
        for method in METHODS
    }
    ranked = sorted(
        ((m, f) for m, f in found.items() if f), key=lambda pair: _joined(pair[1], "sliced").mean()
    )
    rows += [_row(method, results) for method, results in ranked]
    return markdown(["method", "passes", "step size", *SCORES, "s"], rows)


def _row(method: str, results: Sequence[dict[str, Any]]) -> list[str]:
    values = [shown(_joined(results, score)) for score in SCORES]
    size = results[0].get("settings", {}).get("step_size")
    passes = np.mean([one["passes"] for one in results])
    seconds = sum(one["seconds"] for one in results)
    return [
        method,
        f"{passes:.0f}",
        "–" if size is None else f"{size:g}",
        *values,
        f"{seconds:.1f}",
    ]


def mechanism(record: MeasuredLog) -> str:
    """Return accuracy and share taken for real by noise level."""
    rows = []
    for sigma in SIGMAS:
        found = record.known.get(f"mechanism {sigma}", {})
        for estimate in ("mean", "consistency", "flow"):
            if estimate in found:
                values = [shown(np.array(found[estimate][k])) for k in ("used", "held_out", "real")]
                rows.append([f"{sigma:g}", estimate, *values])
    return markdown(["noise", "estimate", "accuracy, used", "held out", "taken for real"], rows)


def neural(task: str, plan: NeuralPlan, record: MeasuredLog) -> str:
    """Return how the variants do on a neural operator."""
    rows = []
    for name in VARIANTS:
        one = record.known.get(f"{task} {name} {plan.passes}")
        if one is None:
            continue
        size = one["settings"].get("step_size")
        agreement = [shown(np.array(one[key])) for key in ("used", "held_out")]
        agreement += [shown(np.array(values)) for values in one.get("iou", [])]
        quality = [f"{one['frechet']:.2f}", f"{one['kernel']:.3f}"]
        cost = [f"{one['passes']:.0f}", f"{one['seconds']:.2f}"]
        rows.append([name, "–" if size is None else f"{size:g}", *agreement, *quality, *cost])
    iou = ["IoU used", "IoU held out"] if task == "segmenter" else []
    head = ["method", "step size", "used", "held out", *iou, "Fréchet", "kernel", "passes", "s"]
    return markdown(head, rows)


def _joined(results: Sequence[dict[str, Any]], score: str) -> np.ndarray:
    return np.array([value for one in results for value in one.get(score, [])], float)


def shown(values: np.ndarray) -> str:
    """Return mean ± standard error."""
    if not len(values):
        return "–"
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean():.3f} ± {error:.3f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
