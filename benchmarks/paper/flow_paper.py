"""The coupling flows of the CMPE paper's comparison, as its code trains them: `ACFPaper` and `NSFPaper`.

They are `estimators.acf` and `estimators.nsf` but for three things: theta and x are taken as they are,
draws may leave the prior's box, and l2 sum W^2 of the layers' networks is added to the loss, but for
their last layers. One difference stays: the domain of the splines is [-5, 5], and that of the
paper's code is learned.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmarks.paper.fmpe_paper import without_bounds
from benchmarks.paper.protocol import KeepsLastWeights
from estimators.acf import ACF
from estimators.coupling import CouplingSettings
from estimators.flow import FlowEstimator
from estimators.nsf import NSF, NSFSettings
from estimators.problem import InferenceProblem

Weight = Annotated[float, Field(strict=True, ge=0)]


class ACFPaperSettings(CouplingSettings):
    """Settings of `ACFPaper`.

    Arguments:
        l2: weight of the squared kernels.
    """

    l2: Weight = 1e-4


class NSFPaperSettings(NSFSettings):
    """Settings of `NSFPaper`.

    Arguments:
        l2: weight of the squared kernels.
    """

    l2: Weight = 1e-4


class AsCoded(KeepsLastWeights, FlowEstimator):
    """What both flows have: raw inputs, the last weights, and the squared kernels in the loss."""

    l2: float

    def __init__(
        self, problem: InferenceProblem, settings: ACFPaperSettings | NSFPaperSettings
    ) -> None:
        super().__init__(without_bounds(problem), settings)
        self.problem, self.l2 = problem, settings.l2
        for kernel in self._kernels():
            nn.init.xavier_uniform_(kernel)

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take the ranges of the training rows and nothing else."""
        self.range.fit(x)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        squares = [torch.dot(w, w) for w in (kernel.flatten() for kernel in self._kernels())]
        return super().loss(theta, x, progress) + self.l2 * torch.stack(squares).sum()

    def _kernels(self) -> list[Tensor]:
        networks = [m for m in self.flow.modules() if isinstance(m, nn.Sequential)]
        layers = [[m for m in network if isinstance(m, nn.Linear)] for network in networks]
        return [layer.weight for linear in layers for layer in linear[:-1]]


class ACFPaper(AsCoded, ACF):
    """Affine coupling flow as coded.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `ACFPaperSettings`.
    """

    settings_type = ACFPaperSettings


class NSFPaper(AsCoded, NSF):
    """Spline coupling flow as coded.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `NSFPaperSettings`.
    """

    settings_type = NSFPaperSettings
