"""How long drawing takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Wall seconds per 1000 posterior draws of one observation.

    Attributes:
        mean, min, median: over the timed blocks of observations.
    """

    definition: str
    mean: float
    min: float
    median: float


def seconds_per_1000(seconds: np.ndarray) -> Timing:
    """Summarise the times measured while the draws of the evaluation were made.

    Arguments:
        seconds: wall seconds per 1000 draws of one observation, one value for each block of observations,
            shape (k,).
    """
    return Timing(
        "Wall seconds per 1000 draws of one observation, measured on the evaluation's own draws",
        float(np.mean(seconds)),
        float(np.min(seconds)),
        float(np.median(seconds)),
    )
