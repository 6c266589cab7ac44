"""How much the step size matters: the sliced distance on validation measurements over the grid, as a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.inverse.methods import GUIDED
from benchmarks.inverse.record import MeasuredLog

HIGHEST = 10.0  # distances above are cut


def curves(record: MeasuredLog) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return case and passes -> method -> pairs of step size and distance."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for key, one in record.known.items():
        first, sign, settings = key.partition(" validation ")
        given = json.loads(settings) if sign else {}
        if list(given) != ["step_size"]:
            continue
        case, method, passes = first.split()
        distance = float(np.mean(one["sliced"]))
        found[f"{case}, {passes} passes"][method].append((given["step_size"], distance))
    return found


def picture(record: MeasuredLog, folder: Path) -> Path:
    """Draw the curves of all cases and return where the picture is."""
    found = curves(record)
    columns = min(3, max(1, len(found)))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * max(rows, 1)), layout="constrained")
    axes = figure.subplots(max(rows, 1), columns, squeeze=False).flatten()
    for ax, (title, methods) in zip(axes, found.items(), strict=False):
        for method, pairs in methods.items():
            sizes, distances = zip(*sorted(pairs), strict=True)
            color = f"C{GUIDED.index(method)}"
            ax.loglog(sizes, np.minimum(distances, HIGHEST), "o-", color=color, ms=3, lw=1.2)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step size")
        ax.set_ylabel("sliced distance")
    lines = [Line2D([], [], color=f"C{k}", marker="o", ms=3) for k in range(len(GUIDED))]
    figure.legend(lines, GUIDED, loc="outside upper center", ncols=len(GUIDED), fontsize=8)
    for ax in axes[len(found) :]:
        ax.remove()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sensitivity.png"
    figure.savefig(path, dpi=110)
    return path
