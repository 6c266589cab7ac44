"""Affine coupling flow.

Half of the parameters is scaled and shifted, given the other half and a summary of x; then the other
half. The log-scale of one coupling stays within +-1.9.

Dinh, Sohl-Dickstein, Bengio: Density Estimation using Real NVP (2017), arXiv 1605.08803; as the
contender in Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference
(2023), arXiv 2312.05440.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from zuko.transforms import MonotonicAffineTransform

from estimators.coupling import coupling_layers
from estimators.estimator import Problem
from estimators.flow import FlowEstimator

LARGEST_LOG_SCALE = 1.9


class ACF(FlowEstimator):
    """Posterior estimator by maximum likelihood of an affine coupling flow.

    Arguments:
        problem: names, bounds and shapes.
        transforms: number of layers; each transforms both halves.
        hidden: units in the layers of the network that yields scales and shifts.
        dropout: share of its units that are silenced while training.
        permutation: fixed or learnable, between the layers.
        bounds: treatment of bounded parameters; a bijection where the prior has bounds.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        transforms: int = 6,
        hidden: Sequence[int] = (128, 128),
        dropout: float = 0.05,
        permutation: str = "fixed",
        bounds: str = "probit",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        self.flow = coupling_layers(
            problem.size,
            self.summary.width,
            partial(MonotonicAffineTransform, slope=math.exp(-LARGEST_LOG_SCALE)),
            [(), ()],
            transforms=transforms,
            hidden=hidden,
            dropout=dropout,
            permutation=permutation,
        )
