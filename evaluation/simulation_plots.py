"""Plots of simulations: outcomes, run times, and where in parameter space they are not ok."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from evaluation.plots import DOTS, INK, POSTERIOR, REFERENCE, STYLE, WARM, grid

COLORS = {
    "ok": "#2f6f9f",
    "failed": "#c8553d",
    "timeout": "#d9a441",
    "invalid": "#7a5195",
    "missing": "#cbd2d9",
}
LINES = 5  # parameters whose share of failures is drawn


@mpl.rc_context(STYLE)
def outcomes(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Simulations by outcome, as shares of what was asked for, one bar for each stream."""
    figure, (ax,) = grid(1, 4.7, 0.9 + 0.5 * len(counts))
    for row, (stream, numbers) in enumerate(counts.items()):
        total = max(1, sum(numbers.get(kind, 0) for kind in COLORS))
        left = 0.0
        for kind, color in COLORS.items():
            share = numbers.get(kind, 0) / total
            ax.barh(row, share, left=left, color=color, height=0.55)
            left += share
        ax.text(1.01, row, f"{total:,} {stream}".replace(",", " "), va="center", color=INK)
    shown = [k for k in COLORS if any(numbers.get(k) for numbers in counts.values())]
    handles = [Patch(color=COLORS[kind], label=kind) for kind in shown]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles) or 1, frameon=False)
    ax.set_xlim(0, 1)
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)
    ax.invert_yaxis()
    return figure


@mpl.rc_context(STYLE)
def seconds(times: Mapping[str, np.ndarray]) -> Figure:
    """Histogram of the seconds that a simulation took, by outcome."""
    figure, (ax,) = grid(1, 4.7, 2.6)
    known = {kind: values[values > 0] for kind, values in times.items()}
    known = {kind: values for kind, values in known.items() if len(values)}
    if known:
        every = np.concatenate(list(known.values()))
        low, high = np.log10(every.min()), np.log10(every.max())
        edges = np.logspace(low - 0.05, high + 0.05, 41)
        colors = [COLORS[kind] for kind in known]
        ax.hist(list(known.values()), edges, stacked=True, color=colors, label=list(known))
        ax.set_xscale("log")
        ax.legend(frameon=False)
    ax.set_xlabel("seconds of one simulation")
    ax.set_ylabel("simulations")
    return figure


@mpl.rc_context(STYLE)
def failures(ok: np.ndarray, bad: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Where in parameter space simulations are not ok: by the two parameters that separate them best, and shares.

    Arguments:
        ok: parameters of simulations that are ok, shape (n, D).
        bad: outcome -> parameters of the simulations that ended so, each (m, D).
        names: of the parameters.
    """
    every = np.concatenate(list(bad.values()))
    separating = np.argsort([-_distance(ok[:, d], every[:, d]) for d in range(ok.shape[1])])
    figure = Figure(figsize=(8.2, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    _places(left, ok, bad, names, separating)
    _shares(right, ok, every, names, separating[:LINES])
    return figure


def _places(
    ax: Any, ok: np.ndarray, bad: Mapping[str, np.ndarray], names: Sequence[str], order: np.ndarray
) -> None:
    i, j = order[0], order[min(1, len(order) - 1)]
    ax.plot(ok[:2000, i], ok[:2000, j], ".", color=REFERENCE, **DOTS)
    for kind, theta in bad.items():
        ax.plot(theta[:, i], theta[:, j], "x", ms=4, color=COLORS[kind], label=kind)
    ax.set_xlabel(names[i])
    ax.set_ylabel(names[j])
    ax.legend(frameon=False, loc="upper right")


def _shares(
    ax: Any, ok: np.ndarray, bad: np.ndarray, names: Sequence[str], order: np.ndarray
) -> None:
    for rank, d in enumerate(order):
        both = np.concatenate([ok[:, d], bad[:, d]])
        edges = np.quantile(both, np.linspace(0, 1, 11))
        share = np.histogram(bad[:, d], edges)[0] / np.maximum(np.histogram(both, edges)[0], 1)
        look = {"color": POSTERIOR if rank else WARM, "alpha": 1 - 0.17 * rank, "label": names[d]}
        ax.plot(np.arange(5, 100, 10), share, lw=1.4, **look)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel("percentile of the parameter")
    ax.set_title("share that is not ok", loc="left")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two empirical distribution functions."""
    points = np.sort(np.concatenate([a, b]))
    first = np.searchsorted(np.sort(a), points, side="right") / len(a)
    second = np.searchsorted(np.sort(b), points, side="right") / len(b)
    return float(np.abs(first - second).max())
