"""Parameters on the scale of their prior: what spans orders of magnitude is looked at as log10."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def on_scale(values: ArrayLike, scales: Sequence[str]) -> np.ndarray:
    """Return parameters (..., D) as float64, those of scale "log" as log10.

    Arguments:
        scales: linear or log, of each of the D parameters.
    """
    coded = np.array(values, dtype=np.float64)
    for d, scale in enumerate(scales):
        if scale == "log":
            coded[..., d] = np.log10(coded[..., d])
    return coded


def labels(names: Sequence[str], scales: Sequence[str]) -> list[str]:
    """Return what to write at parameters that `on_scale` gave."""
    pairs = zip(names, scales, strict=True)
    return [f"log10 {name}" if scale == "log" else name for name, scale in pairs]
