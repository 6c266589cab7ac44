"""Flow matching posterior estimation as the CMPE paper's code does it, every choice by name.

    u_t = (1 - t) z + t u,    loss = E [ d(v(u_t, t; x) - (u - z)) ] + l2 sum W^2,    z ~ N(0, I)

    choice           as_coded    corrected
    distance         log_cosh    squared     d, averaged over coordinates
    times_per_row    32          1           times t in a step for each row, which share its noise z
    extra_step       True        False       K + 1 Euler steps of size 1 / K, or K
    dropout_always   True        False       dropout in validation and in draws as well
    bounds           ignore      reflect     draws leave the prior's box, or are folded back

Theta, x and t are taken as they are in both. The network is that of `benchmarks.paper.cmpe_paper`.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440; Wildberger et al.: Flow Matching for Scalable Simulation-Based
Inference (2023), arXiv 2305.17161.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper.mlp import PaperMLP
from benchmarks.paper.protocol import IGNORE, KeepsLastWeights, one_of, switch
from estimators.checks import within
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps

PROTOCOLS: dict[str, dict[str, Any]] = {
    "as_coded": {
        "distance": "log_cosh",
        "times_per_row": 32,
        "extra_step": True,
        "dropout_always": True,
        "bounds": IGNORE,
    },
    "corrected": {
        "distance": "squared",
        "times_per_row": 1,
        "extra_step": False,
        "dropout_always": False,
        "bounds": "reflect",
    },
}


class FMPEPaper(KeepsLastWeights):
    """Posterior estimator by flow matching as in the CMPE paper's comparison.

    Arguments:
        problem: names, bounds and shapes.
        protocol: as_coded or corrected: the values of the next five where they are None.
        distance: log_cosh or squared.
        times_per_row: times in a step for each row.
        extra_step: whether a draw takes one Euler step more, beyond t = 1.
        dropout_always: whether dropout is active outside of training too.
        bounds: ignore, or a treatment of bounded parameters, see `estimators.transform`.
        width, depth, dropout: units, residual layers and dropout of v.
        l2: weight of the squared kernels of v, but for its last layer's.
        sampling_steps: K, network passes for a draw but for the extra one.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
    """

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        protocol: str = "as_coded",
        distance: str | None = None,
        times_per_row: int | None = None,
        extra_step: bool | None = None,
        dropout_always: bool | None = None,
        bounds: str | None = None,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.05,
        l2: float = 1e-5,
        sampling_steps: int = 1000,
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        one_of("protocol", protocol, PROTOCOLS)
        given = {
            "distance": distance,
            "times_per_row": times_per_row,
            "extra_step": extra_step,
            "dropout_always": dropout_always,
            "bounds": bounds,
        }
        chosen = PROTOCOLS[protocol] | {k: value for k, value in given.items() if value is not None}
        one_of("distance", chosen["distance"], ("log_cosh", "squared"))
        within("times_per_row", chosen["times_per_row"], 1, integer=True)
        within("l2", l2, 0)
        within("sampling_steps", sampling_steps, 1, integer=True)
        switch("extra_step", chosen["extra_step"])
        switch("dropout_always", chosen["dropout_always"])
        ignored = chosen["bounds"] == IGNORE
        super().__init__(
            without_bounds(problem) if ignored else problem,
            bounds="reflect" if ignored else chosen["bounds"],
            summary=summary,
            summary_arguments=summary_arguments,
        )
        self.problem, self.choices, self.l2 = problem, chosen, l2
        self.sampling_steps = sampling_steps
        inputs = problem.size + self.summary.width + 1
        self.network = PaperMLP(inputs, problem.size, width, depth, dropout)

    @property
    def row_memory(self) -> int:
        return self.network.first.in_features + 3 * self.network.first.out_features

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take the ranges of the training rows and nothing else."""
        self.range.fit(x)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.summary(x)
        z, rows = torch.randn_like(u), self.choices["times_per_row"]
        u, z, context = (values.repeat_interleave(rows, 0) for values in (u, z, context))
        t = torch.rand(len(u), 1, device=u.device)
        masks = self.masks(len(u), u.device)
        gap = self.velocity((1 - t) * z + t * u, context, t, masks) - (u - z)
        return self.distance(gap).mean() + self.l2 * self.network.squares()

    def distance(self, gap: Tensor) -> Tensor:
        """Return d of each coordinate of differences (rows, D)."""
        if self.choices["distance"] == "squared":
            return gap.square()
        size = gap.abs()  # log cosh a = |a| + log(1 + e^(-2 |a|)) - log 2
        return size + torch.nn.functional.softplus(-2 * size) - math.log(2)

    def velocity(self, u: Tensor, context: Tensor, t: Tensor, masks: Tensor | None) -> Tensor:
        """Return v(u, t; x), shape (rows, D); t has shape (rows, 1) or (1, 1)."""
        return self.network(torch.cat([u, context, t.expand(len(u), 1)], dim=1), masks)

    def masks(
        self, rows: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Return fresh dropout masks (K, rows, width), None where dropout is not active."""
        if not (self.training or self.choices["dropout_always"]):
            return None
        return self.network.masks(rows, device, generator)

    def sample_latent(
        self, context: Tensor, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Tensor:
        steps = self.sampling_steps if sampling_steps is None else sampling_steps
        if not isinstance(steps, int):
            raise ValueError(f"sampling_steps = {steps!r}; valid: a whole number")
        u = self.noise(context, generator)
        for k in range(steps + self.choices["extra_step"]):
            t = torch.full((1, 1), k / steps, device=u.device)
            u = u + self.velocity(u, context, t, self.masks(len(u), u.device, generator)) / steps
        return u


def without_bounds(problem: InferenceProblem) -> InferenceProblem:
    """Return a problem whose parameters have no bounds."""
    free = (math.inf,) * problem.size
    return replace(problem, low=tuple(-value for value in free), high=free)
