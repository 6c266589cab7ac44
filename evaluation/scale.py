"""Parameters on the scale of their prior: those that span orders of magnitude as log10."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def on_scale(values: ArrayLike, scales: Sequence[str]) -> np.ndarray:
    """Return parameters (..., D) as float64, those of scale "log" as log10.

    Arguments:
        values: natural units, shape (..., D).
        scales: linear or log, of each of the D parameters.
    """
    coded = np.array(values, dtype=np.float64)
    for d, scale in enumerate(scales):
        if scale == "log":
            coded[..., d] = np.log10(coded[..., d])
    return coded


def labels(names: Sequence[str], scales: Sequence[str]) -> list[str]:
    """Return the names of parameters on the scale of their prior, for axes and tables."""
    pairs = zip(names, scales, strict=True)
    return [f"log10 {name}" if scale == "log" else name for name, scale in pairs]
