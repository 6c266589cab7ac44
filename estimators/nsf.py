"""Neural spline flow with coupling layers.

Half of the parameters passes through monotone rational-quadratic splines, given the other half and a
summary of x; then the other half. Outside of [-5, 5], in standard deviations of the parameters, a
spline is the identity.

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows (2019), arXiv 1906.04032; as the contender
in Schmitt et al.: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
2312.05440.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zuko.transforms import MonotonicRQSTransform

from estimators.coupling import coupling_layers
from estimators.estimator import Problem, within
from estimators.flow import FlowEstimator


class NSF(FlowEstimator):
    """Posterior estimator by maximum likelihood of a coupling spline flow.

    Arguments:
        problem: names, bounds and shapes.
        transforms: number of layers; each transforms both halves.
        bins: pieces of a spline.
        hidden: units in the layers of the network that yields the splines.
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
        bins: int = 16,
        hidden: Sequence[int] = (128, 128),
        dropout: float = 0.05,
        permutation: str = "fixed",
        bounds: str = "probit",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("bins", bins, 2, integer=True)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        self.flow = coupling_layers(
            problem.size,
            self.summary.width,
            MonotonicRQSTransform,
            [(bins,), (bins,), (bins - 1,)],
            transforms=transforms,
            hidden=hidden,
            dropout=dropout,
            permutation=permutation,
        )
