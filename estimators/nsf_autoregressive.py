"""Neural spline flow with autoregressive layers.

Every parameter passes through a monotone rational-quadratic spline, given those before it and a
summary of x; the order alternates from layer to layer. A draw takes D passes through each layer, a
density one.

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows (2019), arXiv 1906.04032.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zuko

from estimators.estimator import Problem, within
from estimators.flow import FlowEstimator


class AutoregressiveNSF(FlowEstimator):
    """Posterior estimator by maximum likelihood of an autoregressive spline flow.

    Arguments:
        problem: names, bounds and shapes.
        transforms: number of layers.
        bins: pieces of a spline.
        hidden: units in the layers of the network that yields the splines.
        bounds: treatment of bounded parameters; a bijection where the prior has bounds.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        transforms: int = 5,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        bounds: str = "probit",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("transforms", transforms, 1, integer=True)
        within("bins", bins, 2, integer=True)
        for units in hidden:
            within("hidden", units, 1, integer=True)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        self.flow = zuko.flows.NSF(
            features=problem.size,
            context=self.summary.width,
            transforms=transforms,
            bins=bins,
            hidden_features=tuple(hidden),
        ).transform
