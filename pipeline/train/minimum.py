"""Overfitting: whether a validation curve has a clear minimum before its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RELEVANT = 0.1  # share of its fall by which the loss must rise again
NOISE = 8.0  # standard deviations by which it must rise: the lowest of many noisy values is too low
FEWEST = 5  # validations
LATEST = 3  # validations whose lowest loss stands for the end


@dataclass(frozen=True)
class Minimum:
    """The lowest validation loss of a phase that overfits.

    Attributes:
        phase: its name.
        step: of the lowest loss.
        loss: the lowest loss.
        end: the loss at the end.
    """

    phase: str
    step: int
    loss: float
    end: float


def clear_minimum(phase: str, steps: Sequence[int], losses: Sequence[float]) -> Minimum | None:
    """Return the minimum of a curve that rises clearly after it, None where there is none.

        rise = min(last 3) - min > max(0.1 (first - min), 8 sigma),   sigma = 1.48 median |d| / sqrt(1.5)

    with d the difference of each loss from the mean of its two neighbours, so that a slow change does not
    count as noise.

    Arguments:
        phase: its name.
        steps: of the validations, increasing, shape (n,).
        losses: finite, shape (n,).
    """
    values = np.asarray(losses, float)
    if len(values) < FEWEST:
        return None
    lowest = int(values.argmin())
    away = values[1:-1] - (values[:-2] + values[2:]) / 2
    sigma = 1.4826 * float(np.median(np.abs(away))) / np.sqrt(1.5)
    rise = values[-LATEST:].min() - values[lowest]
    if rise <= max(RELEVANT * (values[0] - values[lowest]), NOISE * sigma):
        return None
    return Minimum(phase, int(steps[lowest]), float(values[lowest]), float(values[-1]))
