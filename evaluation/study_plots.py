"""Plots of a study: its combinations side by side, each a line of one colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from evaluation.plots import BAND, FAINT, INK, STYLE, grid

COLORS = ("#2f6f9f", "#c8553d", "#5a8f3c", "#8a5aa8", "#c99a2e", "#3aa6a0", "#7b5b45", "#d172a8")
MARKERS = "osD^vP*X"
LEGEND = 46  # characters of a name
LEVELS = np.linspace(0.005, 0.995, 100)  # of central intervals


@dataclass(frozen=True)
class Series:
    """A line of a plot.

    Attributes:
        name: as the legend shows it.
        x, y: shape (K,).
        error: standard error of y, shape (K,); NaN where it is not known.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


def style(number: int) -> dict[str, str]:
    """Return colour and marker of the line with this number."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number // len(COLORS) % len(MARKERS)],
    }


@mpl.rc_context(STYLE)
def lines(
    series: Sequence[Series],
    x: str,
    y: str,
    best: float | None = None,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None,
) -> Figure:
    """A metric against the budget, the sampling steps or the seconds, with standard errors.

    Arguments:
        series: one for each combination.
        x, y: names of the axes.
        best: the value of a perfect posterior.
        bands: by the name of a series, what is expected further on: x, low and high, each (M,).
    """
    figure, (ax,) = grid(1, 6.4, 3.9)
    for number, one in enumerate(series):
        look = style(number)
        error = np.nan_to_num(one.error)
        ax.errorbar(one.x, one.y, error, lw=1.4, ms=4, capsize=2, label=one.name[:LEGEND], **look)
        if bands and one.name in bands:
            ahead, low, high = bands[one.name]
            ax.fill_between(ahead, low, high, color=look["color"], alpha=0.15, lw=0)
    if best is not None:
        ax.axhline(best, color=FAINT, lw=1, ls=(0, (4, 3)))
    ticks = np.unique(np.concatenate([one.x for one in series]))
    if len(ticks) > 1 and ticks.min() > 0 and ticks.max() > 4 * ticks.min():
        ax.set_xscale("log")
    if len(ticks) <= 8:
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        ax.set_xticks([], minor=True)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


@mpl.rc_context(STYLE)
def pareto(series: Sequence[Series], front: np.ndarray, x: str, y: str) -> Figure:
    """A metric against the seconds that it takes, with the combinations that no other beats in both.

    Arguments:
        series: one for each combination.
        front: points (M, 2) that no other beats, by x.
        x, y: names of the axes.
    """
    figure = lines(series, x, y)
    (ax,) = figure.axes
    ax.plot(*front.T, color=INK, lw=1, ls=":", drawstyle="steps-post", label="best for its seconds")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    return figure


def not_beaten(points: np.ndarray) -> np.ndarray:
    """Return the points (M, 2) for which no other is lower in one coordinate and not higher in the other, by x."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], order[:-1, 1]]))
    kept: np.ndarray = order[order[:, 1] < lowest]
    return kept


@mpl.rc_context(STYLE)
def calibration(fractions: Mapping[str, np.ndarray], sets: int) -> Figure:
    """Coverage of central intervals minus their level, averaged over the parameters, for each combination.

    Arguments:
        fractions: fractional ranks of the true parameters, each (B, D).
        sets: independent test sets behind each line.
    """
    figure, (ax,) = grid(1, 6.4, 3.9)
    spread = 1.96 * np.sqrt(LEVELS * (1 - LEVELS) / sets)
    ax.fill_between(LEVELS, -spread, spread, color=BAND, lw=0)
    for number, (name, ranks) in enumerate(fractions.items()):
        inside = np.abs(2 * ranks[None] - 1) < LEVELS[:, None, None]
        color = style(number)["color"]
        ax.plot(LEVELS, inside.mean((1, 2)) - LEVELS, color=color, lw=1.4, label=name[:LEGEND])
    ax.axhline(0, color=FAINT, lw=0.8)
    ax.set_xlabel("level of the central interval")
    ax.set_ylabel("coverage - level")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
