"""Draws for one measured image: exact ones and those of some methods, with the step sizes that were chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.inverse.exact import SMALL, tuned
from benchmarks.inverse.methods import settings
from benchmarks.inverse.problems import CASES, OPERATORS
from benchmarks.inverse.record import MeasuredLog
from estimators.inverse import create

METHODS = ("cm_smc", "pgdm", "dps", "cm_guidance")
DRAWS, SHOWN = 60, 5  # of each method; of these in the picture
PASSES = 40


def picture(operator: str, record: MeasuredLog, folder: Path, seed: int = 0) -> Path:
    """Draw truth, measurement, and mean, standard deviation and draws of each method; return where it is."""
    assert operator in OPERATORS
    case = f"fashion_{operator}"
    problem = CASES[case](100 * seed, 1)
    lines = {"exact": problem.exact(DRAWS, 0)[0]}
    for method in METHODS:
        chosen = tuned(case, method, PASSES, SMALL[case], record)
        solver = create(method, problem.prior, **{**settings(method, PASSES), **chosen})
        lines[method] = solver(problem.y, problem.operator, DRAWS, 0)[0]
    figure = Figure(figsize=(1.05 * (SHOWN + 3), 1.15 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), SHOWN + 3, squeeze=False)
    for row, (name, draws) in zip(axes, lines.items(), strict=True):
        first = problem.theta[0] if name == "exact" else None
        images: list[tuple[str, Tensor | None]] = [
            ("truth", first),
            ("mean", draws.mean(0)),
            ("sd", draws.std(0)),
        ]
        images += [(f"draw {k + 1}", draw) for k, draw in enumerate(draws[:SHOWN])]
        for ax, (title, image) in zip(row, images, strict=True):
            _show(ax, image, low=0.0 if title == "sd" else -1.0)
            if name == "exact":
                ax.set_title(title, fontsize=8)
        row[0].set_ylabel(name, fontsize=8)
    _show(axes[1, 0], problem.y[0], low=None)
    axes[1, 0].set_title("measured", fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"draws_{operator}.png"
    figure.savefig(path, dpi=100)
    return path


def _show(ax: Any, image: Tensor | None, low: float | None) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    if image is None:
        ax.set_frame_on(False)
        return
    side = round(image.numel() ** 0.5)
    if side**2 == image.numel():
        ends = {} if low is None else {"vmin": low, "vmax": 1.0}
        ax.imshow(torch.Tensor(image).view(side, side), cmap="gray", **ends)
