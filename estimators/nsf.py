"""Neural spline flow with coupling layers.

Half of the parameters passes through monotone rational-quadratic splines, given the other half and a
summary of x; then the other half. Outside of [-5, 5], in standard deviations of the parameters, a
spline is the identity.

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows (2019), arXiv 1906.04032; as the contender
in Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
2312.05440.
"""

from __future__ import annotations

from zuko.transforms import MonotonicRQSTransform

from estimators.coupling import CouplingSettings, coupling_layers
from estimators.flow import FlowEstimator
from estimators.problem import InferenceProblem
from estimators.settings import Bins


class NSFSettings(CouplingSettings):
    """Settings of `NSF`.

    Arguments:
        bins: pieces of a spline.
    """

    bins: Bins = 16


class NSF(FlowEstimator):
    """Posterior estimator by maximum likelihood of a coupling spline flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `NSFSettings`.

    Raises:
        LookupError, ValueError: a setting that is not valid.
    """

    settings_type = NSFSettings

    def __init__(self, problem: InferenceProblem, settings: NSFSettings) -> None:
        super().__init__(problem, settings)
        bins = settings.bins
        self.flow = coupling_layers(
            problem.latent_size,
            self.summary.width,
            MonotonicRQSTransform,
            [(bins,), (bins,), (bins - 1,)],
            settings,
        )
