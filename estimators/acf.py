"""Affine coupling flow.

Half of the parameters is scaled and shifted, given the other half and a summary of x; then the other
half. The log-scale of one coupling stays within +-1.9.

Dinh, Sohl-Dickstein, Bengio: Density Estimation using Real NVP (2017), arXiv 1605.08803; as the
contender in Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference
(2023), arXiv 2312.05440.
"""

from __future__ import annotations

import math
from functools import partial

from zuko.transforms import MonotonicAffineTransform

from estimators.coupling import CouplingSettings, coupling_layers
from estimators.flow import FlowEstimator
from estimators.problem import InferenceProblem

LARGEST_LOG_SCALE = 1.9


class ACF(FlowEstimator):
    """Posterior estimator by maximum likelihood of an affine coupling flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `CouplingSettings`.

    Raises:
        LookupError, ValueError: a setting that is not valid.
    """

    settings_type = CouplingSettings

    def __init__(self, problem: InferenceProblem, settings: CouplingSettings) -> None:
        super().__init__(problem, settings)
        self.flow = coupling_layers(
            problem.latent_size,
            self.summary.width,
            partial(MonotonicAffineTransform, slope=math.exp(-LARGEST_LOG_SCALE)),
            [(), ()],
            settings,
        )
