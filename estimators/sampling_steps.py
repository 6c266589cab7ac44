"""How a draw is made: by how many network passes, or at which times of the flow."""

from __future__ import annotations

from collections.abc import Sequence

SamplingSteps = (
    int | Sequence[float] | None
)  # passes, or their times; None: the estimator's default
