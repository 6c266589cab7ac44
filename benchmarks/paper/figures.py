"""The pictures of the page on the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.page import averages
from evaluation.plots import FAINT, INK, REFERENCE, STYLE, WARM, grid
from evaluation.study_plots import style
from pipeline.errors import PipelineError
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.study.case import CASES

Row = Mapping[str, Any]
METHODS = ("ACF", "NSF", "FMPE", "CMPE", "ours")  # of the pictures of draws
SHOWN = 1000  # draws in a panel
ARMS = 40
LENGTHS = np.array([0.5, 0.5, 1.0])  # of the arm's segments, see `simulators.inverse_kinematics`


def write(
    published: Mapping[str, Row],
    rows: Mapping[str, Sequence[Row]],
    speed: Sequence[Row],
    folders: Sequence[Path],
    images: Path,
) -> None:
    """Draw every picture of which something is there; the others stay as they are.

    Arguments:
        published: the paper's figures by experiment.
        rows: what is recorded, by experiment.
        speed: C2ST against sampling steps, of all experiments.
        folders: of the studies, for their draws.
        images: folder of the pictures.
    """
    trained = {folder.name: found for folder in folders if (found := draws_of(folder))}
    arm = trained.get("inverse_kinematics")
    pictures = {
        "budgets.png": budgets(published, rows) if any(rows.values()) else None,
        "speed.png": against_steps(published, speed) if speed else None,
        "posteriors.png": posteriors(trained) if trained else None,
        "arm.png": arms(arm) if arm else None,
    }
    images.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        if figure is not None:
            with mpl.rc_context(STYLE):
                figure.savefig(images / name, dpi=110, metadata={"Software": None})


@mpl.rc_context(STYLE)
def budgets(published: Mapping[str, Row], rows: Mapping[str, Sequence[Row]]) -> Figure:
    """C2ST against the budget, one panel for each experiment: the paper's lines, our points."""
    figure, axes = grid(len(published), 3.6, 3.4)
    names = list(dict.fromkeys(name for one in published.values() for name in one["c2st"]))
    for ax, (experiment, one) in zip(axes, published.items(), strict=True):
        found = averages(rows[experiment], "c2st")
        for number, name in enumerate(names):
            color = style(number)["color"]
            ax.plot(one["budgets"], one["c2st"][name], lw=1.2, color=color, label=name)
            here = {n: value for (method, n), value in found.items() if method == name}
            errors = [value["sem"] or 0.0 for value in here.values()]
            means = [value["mean"] for value in here.values()]
            ax.errorbar(list(here), means, errors, fmt="o", ms=4.5, color=color, capsize=2)
        ax.set_xscale("log", base=2)
        ax.set_xticks(one["budgets"], [str(n) for n in one["budgets"]])
        ax.set_title(one["title"].partition(" (")[0])
        ax.set_xlabel("budget")
    axes[0].set_ylabel("C2ST")
    axes[-1].legend(fontsize=7)
    return figure


@mpl.rc_context(STYLE)
def against_steps(published: Mapping[str, Row], rows: Sequence[Row]) -> Figure:
    """C2ST against sampling steps and against seconds: the paper's lines, our points."""
    there = [name for name in published if any(row["experiment"] == name for row in rows)]
    figure, axes = grid(2 * len(there), 3.6, 3.2, columns=2)
    for number, experiment in enumerate(there):
        one = published[experiment]
        for ax, key, column in (
            (axes[2 * number], "steps", "sampling_steps"),
            (axes[2 * number + 1], "seconds", "seconds_per_1000"),
        ):
            for colour, method in enumerate(("CMPE", "FMPE")):
                color = style(colour)["color"]
                if "speed" in one:
                    paper = one["speed"][method]
                    x = one["speed"]["steps"] if key == "steps" else paper["seconds"]
                    ax.plot(x, paper["c2st"], lw=1.2, color=color, label=f"{method}, paper")
                mine = [r for r in rows if r["experiment"] == experiment and r["method"] == method]
                if not mine:
                    continue
                ax.plot(
                    [r[column] for r in mine], [r["c2st"] for r in mine], "o", ms=4.5, color=color,
                    label=f"{method} here",
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_title(one["title"].partition(" (")[0])
            ax.set_xlabel("sampling steps" if key == "steps" else "seconds of 1000 draws")
            ax.set_ylabel("C2ST")
    axes[0].legend(fontsize=7)
    return figure


def draws_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the draws of a study for its first test set, by method, of the budget most methods have.

    Returns:
        Each method with `draws` (n, D), `references` (n, D), `theta` (D,), `seconds` of 1000 draws, and `budget`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"{CASES}/*,budget=*,seed=0")):
        method, _, rest = path.name.partition(",")
        budget = rest.partition("budget=")[2].partition(",")[0]
        try:
            results = Results(RunDirectory(path), latest_training(RunDirectory(path)))
            evaluated, arrays = results.evaluated(), results.draws()
        except PipelineError:
            continue
        if method in METHODS and evaluated and arrays and "references" in arrays:
            name = next(key for key in arrays if key.startswith("draws_"))
            steps = name.removeprefix("draws_")
            found.setdefault(budget, {})[method] = {
                "draws": arrays[name][0],
                "references": arrays["references"][0],
                "theta": arrays["theta"][0],
                "seconds": evaluated["metrics"]["seconds"]["median"],
                "steps": "" if steps == "None" else steps,
                "budget": budget,
            }
    if not found:
        return {}
    best = max(found.values(), key=len)
    return {method: best[method] for method in METHODS if method in best}


@mpl.rc_context(STYLE)
def posteriors(trained: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Two parameters of the reference posterior and of each method, one row for each experiment."""
    methods = [name for name in METHODS if any(name in one for one in trained.values())]
    figure, axes = grid(len(trained) * (1 + len(methods)), 1.7, 1.9, columns=1 + len(methods))
    for number, (experiment, found) in enumerate(trained.items()):
        row = axes[number * (1 + len(methods)) : (number + 1) * (1 + len(methods))]
        first = next(iter(found.values()))
        limits = _limits(first["references"])
        panel(row[0], first["references"], limits, "reference", REFERENCE)
        row[0].set_ylabel(f"{experiment.replace('_', ' ')}\n{first['budget']}", fontsize=7)
        for ax, method in zip(row[1:], methods, strict=True):
            if method not in found:
                ax.remove()
                continue
            one = found[method]
            told = f"{method} {one['steps']}\n{one['seconds']:.3g} s"
            panel(ax, one["draws"], limits, told, style(METHODS.index(method))["color"])
    return figure


def panel(ax: Axes, draws: np.ndarray, limits: np.ndarray, title: str, color: str) -> None:
    """Draw the first two parameters."""
    ax.plot(*draws[:SHOWN, :2].T, ".", ms=1.6, alpha=0.5, mew=0, color=color, rasterized=True)
    ax.set_xlim(*limits[:, 0])
    ax.set_ylim(*limits[:, 1])
    ax.set_title(title, fontsize=7)
    ax.tick_params(labelsize=5)


def _limits(draws: np.ndarray) -> np.ndarray:
    """Return the range of the first two parameters and a half of it more, shape (2, 2)."""
    low, high = draws[:, :2].min(0), draws[:, :2].max(0)
    return np.stack([low - (high - low) / 4, high + (high - low) / 4])


@mpl.rc_context(STYLE)
def arms(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The arm at draws of the reference posterior and of each method, and the observed end point."""
    first = next(iter(found.values()))
    target = joints(first["theta"][None])[0, -1]
    sets = {"reference": first["references"]} | {name: one["draws"] for name, one in found.items()}
    figure, axes = grid(len(sets), 2.2, 2.4, columns=len(sets))
    for ax, (name, draws) in zip(axes, sets.items(), strict=True):
        for points in joints(draws[:ARMS]):
            ax.plot(points[:, 1], points[:, 0], "-", lw=0.7, alpha=0.35, color=INK)
        ends = joints(draws[:SHOWN])[:, -1]
        ax.plot(ends[:, 1], ends[:, 0], ".", ms=2, alpha=0.4, mew=0, color=WARM)
        ax.plot(target[1], target[0], "x", ms=7, color=style(0)["color"])
        ax.axvline(0, color=FAINT, lw=0.8)
        ax.set_title(name, fontsize=8)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=6)
    return figure


def joints(theta: np.ndarray) -> np.ndarray:
    """Return base, joints and end of the arm: place along the rail and height, shape (n, 4, 2)."""
    angles = np.cumsum(theta[:, 1:], axis=1)
    along = theta[:, :1] + np.cumsum(LENGTHS * np.sin(angles), axis=1)
    height = np.cumsum(LENGTHS * np.cos(angles), axis=1)
    base = np.stack([theta[:, 0], np.zeros(len(theta))], axis=1)[:, None]
    return np.concatenate([base, np.stack([along, height], axis=2)], axis=1)
