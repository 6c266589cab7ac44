"""Pictures of posteriors whose parameters are an image."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from evaluation.plots import STYLE, grid

SHOWN_DRAWS = 4
INCHES = 1.15  # of a small image


@mpl.rc_context(STYLE)
def gallery(
    theta: np.ndarray | None,
    draws: np.ndarray,
    observed: np.ndarray | None,
    shape: tuple[int, int],
    labels: Sequence[str],
) -> Figure:
    """Truth, observation, mean, standard deviation and some draws, one test image a row.

    Arguments:
        theta: true images, shape (k, D), None where they are not known. draws: shape (k, n, D).
        observed: observations (k, height, width), None where they are no images.
        shape: (height, width) of D pixels. labels: one for each row.
    """
    shown = min(SHOWN_DRAWS, draws.shape[1])
    scale = draws if theta is None else theta
    low, high = float(scale.min()), float(scale.max())
    heads = ["truth"] if theta is not None else []
    heads += [*(["observation"] if observed is not None else []), "mean", "sd"]
    heads += [f"draw {k + 1}" for k in range(shown)]
    figure = Figure(figsize=(INCHES * len(heads), INCHES * len(draws) + 0.3), layout="constrained")
    axes = figure.subplots(len(draws), len(heads), squeeze=False)
    spread = draws.std(1)
    for i, row in enumerate(axes):
        # Each image with the limits of its grey scale; None: its own.
        images: list[tuple[np.ndarray, tuple[float, float] | None]] = []
        if theta is not None:
            images.append((theta[i], (low, high)))
        if observed is not None:
            images.append((observed[i], None))
        images += [(draws[i].mean(0), (low, high)), (spread[i], (0.0, float(spread.max())))]
        images += [(draws[i, k], (low, high)) for k in range(shown)]
        for ax, (image, limits), head in zip(row, images, heads, strict=True):
            pixels = image if image.ndim == 2 else image.reshape(shape)
            ends = limits or (float(pixels.min()), float(pixels.max()))
            ax.imshow(pixels, cmap="gray", vmin=ends[0], vmax=ends[1], interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            if i == 0:
                ax.set_title(head, fontsize=8)
        row[0].set_ylabel(labels[i], fontsize=7)
    return figure


@mpl.rc_context(STYLE)
def maps(
    values: dict[str, np.ndarray], shape: tuple[int, int], centres: dict[str, float]
) -> Figure:
    """One number for each pixel, as images with their scales; pixels without a number stay white.

    Arguments:
        values: title -> shape (D,).
        shape: (height, width).
        centres: title -> the share that a perfect posterior has, where the numbers are shares.
    """
    figure, axes = grid(len(values), 2.6, 2.3, columns=3)
    for ax, (name, one) in zip(axes, values.items(), strict=True):
        image, centre = one.reshape(shape), centres.get(name)
        if centre is None:
            drawn = ax.imshow(image, cmap="viridis", interpolation="nearest")
        else:
            finite = image[np.isfinite(image)]
            width = float(np.abs(finite - centre).max()) if finite.size else 0.0
            ends = centre - max(width, 1e-3), centre + max(width, 1e-3)
            drawn = ax.imshow(
                image, cmap="RdBu_r", vmin=ends[0], vmax=ends[1], interpolation="nearest"
            )
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        bar = figure.colorbar(drawn, ax=ax, shrink=0.8)
        if centre is not None:  # a share
            bar.ax.set_ylim(max(0.0, ends[0]), min(1.0, ends[1]))
    return figure
