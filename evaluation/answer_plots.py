"""Plots of an answer: what was learned of each parameter, what the model predicts, what the answer rests on."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from evaluation.plots import (
    BAND,
    INK,
    MOST_PARAMETERS,
    POSTERIOR,
    REFERENCE,
    STYLE,
    WARM,
    grid,
    title,
)

MOST_BARS = 30
FEW = 12  # elements that are shown one by one


@mpl.rc_context(STYLE)
def prior_and_posterior(
    draws: np.ndarray, prior: np.ndarray, hpd: np.ndarray, names: Sequence[str]
) -> Figure:
    """Histograms of the posterior over those of the prior, with the shortest 90 % interval.

    Arguments:
        draws: posterior draws, shape (n, D).
        prior: prior draws, shape (m, D).
        hpd: intervals, shape (D, 2).
        names: of the parameters.
    """
    figure, axes = grid(min(draws.shape[1], MOST_PARAMETERS), 2.35, 1.9)
    for d, ax in enumerate(axes):
        both = np.concatenate([draws[:, d], prior[:, d]])
        low, high = np.quantile(both, [0.002, 0.998])
        edges = np.linspace(low, high, 41)
        ax.hist(prior[:, d], list(edges), density=True, color=REFERENCE, alpha=0.45, label="prior")
        ax.hist(draws[:, d], list(edges), density=True, color=POSTERIOR, histtype="step", lw=1.4,
                label="posterior")  # fmt: skip
        ax.axvspan(*hpd[d], color=BAND, zorder=0)
        ax.set_yticks([])
        ax.set_title(title(names[d], ""), loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def predicted(
    observed: np.ndarray, low: np.ndarray, high: np.ndarray, tail: np.ndarray, name: str
) -> Figure:
    """An output beside what the posterior predicts: intervals that hold 50 and 90 % of the simulations.

    Arguments:
        observed: shape (E,).
        low, high: ends of the intervals, shape (2, E).
        tail: two-sided p-value of every element, shape (E,).
        name: of the output.
    """
    figure = Figure(figsize=(5.6, 2.4), layout="constrained")
    ax = figure.subplots()
    at = np.arange(len(observed))
    few = len(observed) <= FEW
    for k, shade in ((1, BAND), (0, "#b6cbdc")):
        if few:
            ax.bar(at, high[k] - low[k], 0.6, low[k], color=shade, lw=0)
        else:
            ax.fill_between(at, low[k], high[k], color=shade, lw=0, step="mid")
    odd = tail < 0.05 / max(1, len(tail))
    ax.plot(at, observed, "o", ms=3.5, color=INK, mew=0, label="observed")
    if odd.any():
        ax.plot(at[odd], observed[odd], "o", ms=6, mfc="none", color=WARM, label="outside")
    ax.set_title(title(name, ""), loc="left")
    ax.set_xlabel("element" if len(observed) > 1 else "")
    if few:
        ax.set_xlim(-1, len(observed))
        ax.set_xticks(at if len(observed) > 1 else [])
        ax.margins(y=0.1)
    ax.legend(loc="best", fontsize=7.5)
    return figure


@mpl.rc_context(STYLE)
def bars(values: Sequence[float], names: Sequence[str], label: str) -> Figure:
    """The largest values by name, the largest on top."""
    order = np.argsort(values)[::-1][:MOST_BARS][::-1]
    figure = Figure(figsize=(4.6, 0.7 + 0.19 * len(order)), layout="constrained")
    ax = figure.subplots()
    ax.barh(np.arange(len(order)), np.asarray(values)[order], color=POSTERIOR, height=0.7)
    ax.set_yticks(np.arange(len(order)), [names[k] for k in order], fontsize=7.5)
    ax.grid(False, axis="y")
    ax.set_xlabel(label)
    return figure
