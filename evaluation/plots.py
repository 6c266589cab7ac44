"""Plots of a run, as matplotlib figures; `svg` turns one into text for a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from evaluation.calibration import band, ecdf_difference

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
POSTERIOR, REFERENCE, BAND, WARM = "#2f6f9f", "#9aa5b1", "#dce6ee", "#c8553d"
DOTS: dict[str, Any] = {"ms": 2.2, "alpha": 0.5, "mew": 0, "rasterized": True}
MOST_PARAMETERS = 12  # in one plot
MOST_PAIRS = 5
TITLE, LABEL = 30, 14  # characters that fit above a plot, beside a small one
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": REFERENCE,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "svg.hashsalt": "sbiflow",
    "savefig.dpi": 160,
}


@mpl.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """Return the figure as SVG; equal figures give equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def grid(count: int, width: float, height: float, columns: int = 4) -> tuple[Figure, list[Any]]:
    """Return a figure with `count` axes of the given inches, row by row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def title(name: str, note: str) -> str:
    """Return a name with a note behind it, below it where both are too long for one line."""
    if note and len(name) + len(note) < TITLE:
        return f"{name},  {note}"
    name = wrapped(name, TITLE)
    return f"{name}\n{note}" if note else name


def wrapped(name: str, width: int = LABEL) -> str:
    """Return a name on lines of at most `width` letters, broken behind underscores."""
    lines = [""]
    for part in re.split(r"(?<=_)", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


@mpl.rc_context(STYLE)
def recovery(theta: np.ndarray, draws: np.ndarray, names: Sequence[str]) -> Figure:
    """Posterior median and central 90 % interval against the true value, for every parameter.

    Arguments:
        theta: true parameters, shape (B, D).
        draws: posterior draws, shape (B, n, D).
        names: of the parameters.
    """
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=1)
    count = min(theta.shape[1], MOST_PARAMETERS)
    figure, axes = grid(count, 2.35, 2.5)
    for d, ax in enumerate(axes):
        ends = [theta[:, d].min(), theta[:, d].max()]
        ax.plot(ends, ends, color=FAINT, lw=1, ls=(0, (4, 3)))
        ax.vlines(theta[:, d], low[:, d], high[:, d], color=POSTERIOR, lw=0.9, alpha=0.35)
        ax.plot(theta[:, d], middle[:, d], "o", ms=3, color=POSTERIOR, mew=0)
        residual = np.sum((theta[:, d] - middle[:, d]) ** 2)
        spread = np.sum((theta[:, d] - theta[:, d].mean()) ** 2)
        share = f"R² = {1 - residual / spread:.3f}" if spread > 0 else ""
        ax.set_title(title(names[d], share), loc="left")
        ax.set_xlabel("true value")
    axes[0].set_ylabel("posterior median, 90 % interval")
    return figure


@mpl.rc_context(STYLE)
def sbc_ecdf(fractions: np.ndarray, names: Sequence[str]) -> Figure:
    """ECDF of the fractional ranks minus uniform, with the simultaneous 95 % band.

    Arguments:
        fractions: ranks / n, shape (B, D).
        names: of the parameters.
    """
    limits = band(len(fractions))
    difference = ecdf_difference(fractions, limits.points)
    z = np.concatenate([[0.0], limits.points, [1.0]])
    count = min(fractions.shape[1], MOST_PARAMETERS)
    figure, axes = grid(count, 2.35, 2.1)
    for d, ax in enumerate(axes):
        edge = [np.pad(values, 1) for values in (limits.low, limits.high)]
        ax.fill_between(z, *edge, color=BAND, lw=0)
        out = (difference[:, d] < limits.low - 1e-12) | (difference[:, d] > limits.high + 1e-12)
        color = WARM if out.any() else POSTERIOR
        ax.plot(z, np.pad(difference[:, d], 1), color=color, lw=1.4, drawstyle="steps-mid")
        ax.axhline(0, color=FAINT, lw=0.8)
        ax.set_title(title(names[d], "leaves the band" if out.any() else ""), loc="left")
        ax.set_xlabel("fractional rank")
        ax.set_xlim(0, 1)
    axes[0].set_ylabel("ECDF difference")
    return figure


@mpl.rc_context(STYLE)
def pairs(
    draws: np.ndarray,
    names: Sequence[str],
    theta: np.ndarray | None,
    reference: np.ndarray | None = None,
) -> Figure:
    """Draws of one test set, pair by pair, over those of the reference posterior.

    Arguments:
        draws: posterior draws, shape (n, D).
        names: of the parameters.
        theta: true parameters, shape (D,), None where they are not known.
        reference: draws of the reference posterior, shape (m, D).
    """
    size = min(draws.shape[1], MOST_PAIRS)
    figure = Figure(figsize=((4.6,) * 2 if size < 4 else (1.6 * size,) * 2), layout="constrained")
    axes = figure.subplots(size, size, squeeze=False)
    both = draws if reference is None else np.concatenate([draws, reference])
    low, high = np.quantile(both[:, :size], [0.001, 0.999], axis=0)
    same = np.where(high > low, 0.0, 0.5)  # whole numbers may all be equal
    edges = list(np.linspace(low - same, high + same, 41, axis=1))
    for i in range(size):
        for j in range(size):
            ax = axes[i, j]
            if j > i:
                ax.remove()
                continue
            ax.grid(False)
            _cell(ax, draws, reference, theta, edges, i, j)
            ax.tick_params(labelbottom=i == size - 1, labelleft=j == 0 and i > 0)
            if i == size - 1:
                ax.set_xlabel(wrapped(names[j]))
            if j == 0 and i > 0:
                ax.set_ylabel(wrapped(names[i]))
    handles = [Patch(color=POSTERIOR, label="posterior")]
    if reference is not None:
        handles.append(Patch(color=REFERENCE, label="reference"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    return figure


def _cell(
    ax: Any,
    draws: np.ndarray,
    reference: np.ndarray | None,
    theta: np.ndarray | None,
    edges: list[np.ndarray],
    i: int,
    j: int,
) -> None:
    layers = [(draws, POSTERIOR)]
    if reference is not None:
        layers.insert(0, (reference, REFERENCE))
    ax.set_xlim(edges[j][0], edges[j][-1])
    if i == j:
        for values, color in layers:
            style, alpha = ("stepfilled", 0.45) if color == REFERENCE else ("step", 1.0)
            ax.hist(values[:, j], edges[j], density=True, color=color, histtype=style, alpha=alpha)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    else:
        ax.set_ylim(edges[i][0], edges[i][-1])
        for values, color in layers:
            ax.plot(values[:, j], values[:, i], ".", color=color, **DOTS)
        if theta is not None:
            ax.axhline(theta[i], color=WARM, lw=0.8)
    if theta is not None:
        ax.axvline(theta[j], color=WARM, lw=0.8)


@mpl.rc_context(STYLE)
def training(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Training and validation loss against the step."""
    figure, (ax,) = grid(1, 4.7, 2.8)
    for name, color in (("train", REFERENCE), ("validation", POSTERIOR)):
        rows = [(row["step"], row[name]) for row in curves if row.get(name) is not None]
        if rows:
            ax.plot(*np.array(rows, dtype=float).T, color=color, lw=1.4, label=name)
    values = [row[name] for row in curves for name in ("train", "validation") if row.get(name)]
    if values and min(values) > 0 and max(values) > 3 * min(values):
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    return figure


@mpl.rc_context(STYLE)
def distribution(values: np.ndarray, name: str, null: float | None = None) -> Figure:
    """Histogram of a metric over the test sets, with its mean and a perfect posterior's value."""
    figure, (ax,) = grid(1, 4.7, 2.8)
    ax.hist(values, bins=min(30, max(5, len(values) // 4)), color=POSTERIOR, alpha=0.8)
    ax.axvline(np.mean(values), color=INK, lw=1.3, label=f"mean {np.mean(values):.3f}")
    if null is not None:
        ax.axvline(null, color=WARM, lw=1.2, ls=(0, (4, 3)), label=f"perfect {null:g}")
    ax.set_xlabel(name)
    ax.set_ylabel("test sets")
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=False)
    return figure


@mpl.rc_context(STYLE)
def marginals(samples: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Figure:
    """Draw the marginals of several weighted sets of draws over each other.

    Arguments:
        samples: draws (n, D) and weights (n,) of each, by its name in the legend.
        names: of the parameters; the first twelve are drawn.
    """
    figure, panels = grid(min(len(names), MOST_PARAMETERS), 2.5, 1.9)
    colours = (POSTERIOR, WARM, REFERENCE)
    for j, panel in enumerate(panels):
        every = np.concatenate([theta[:, j] for theta, _ in samples.values()])
        low, high = np.quantile(every, [0.002, 0.998])
        bins = np.linspace(float(low), float(high), 41)
        for colour, (label, (theta, weight)) in zip(colours, samples.items(), strict=False):
            style: dict[str, Any] = {"histtype": "step", "color": colour, "linewidth": 1.4}
            panel.hist(theta[:, j], bins, weights=weight, density=True, label=label, **style)
        panel.set(title=title(names[j], ""), yticks=[])
    panels[0].legend(fontsize=7.5)
    return figure
