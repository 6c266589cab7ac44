"""Neural spline flow with autoregressive layers.

Every parameter passes through a monotone rational-quadratic spline, given those before it and a
summary of x; the order alternates from layer to layer. A draw takes D passes through each layer, a
density one.

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows (2019), arXiv 1906.04032.
"""

from __future__ import annotations

from collections.abc import Sequence

import zuko

from estimators.flow import FlowEstimator, FlowSettings
from estimators.problem import InferenceProblem
from estimators.settings import Bins, PositiveInt


class AutoregressiveNSFSettings(FlowSettings):
    """Settings of `AutoregressiveNSF`.

    Arguments:
        transforms: number of layers.
        bins: pieces of a spline.
        hidden: units in the layers of the network that yields the splines.
    """

    transforms: PositiveInt = 5
    bins: Bins = 8
    hidden: Sequence[PositiveInt] = (64, 64)


class AutoregressiveNSF(FlowEstimator):
    """Posterior estimator by maximum likelihood of an autoregressive spline flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `AutoregressiveNSFSettings`.

    Raises:
        LookupError, ValueError: a setting that is not valid.
    """

    settings_type = AutoregressiveNSFSettings

    def __init__(self, problem: InferenceProblem, settings: AutoregressiveNSFSettings) -> None:
        super().__init__(problem, settings)
        self.flow = zuko.flows.NSF(
            features=problem.latent_size,
            context=self.summary.width,
            transforms=settings.transforms,
            bins=settings.bins,
            hidden_features=tuple(settings.hidden),
        ).transform
