"""The image experiment of the CMPE paper as its code has it: both methods with both networks.

    CMPE   `benchmarks.paper.cmpe_paper` with protocol as_coded and s^2 = 0.25
    FMPE   u_t = (1 - t) z + t u,   loss = mean log cosh(v(u_t, t; x) - (u - z)),   t uniform, several for one z
           u_{k+1} = u_k + v(u_k, k / K; x) / K,   k = 0 ... K: one step more than leads to t = 1

Parameters and outputs are taken as they are, and draws keep no bounds. Networks see u_t, 128 numbers of x from
the paper's CNN, and sines and cosines of 1000 t / T. The paper's L2 penalty on the CNN is left out.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.paper.cmpe_paper import CMPEPaper
from estimators.estimator import Estimator
from estimators.network import free_form_network
from estimators.network.base import FreeForm
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps

FREQUENCIES = 32
SUMMARY = "naive_cnn"


class TimeFeatures(nn.Module):
    """Features sin(a t b^-j), cos(a t b^-j), j = 0 ... 31, b = 10000^(1 / 31), of times (rows, 1).

    Arguments:
        scale: a.
    """

    frequencies: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        exponents = torch.arange(FREQUENCIES) * (math.log(10_000) / (FREQUENCIES - 1))
        self.register_buffer("frequencies", scale * (-exponents).exp(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        phase = t * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Split(nn.Module):
    """A free-form network whose inputs u_t, context and t come side by side, without dropout or penalty.

    Arguments:
        network: of 64 features of time.
        features: makes them of t.
    """

    dropout = 0.0

    def __init__(self, network: FreeForm, features: TimeFeatures) -> None:
        super().__init__()
        self.network, self.features = network, features

    def forward(self, inputs: Tensor, masks: Tensor | None = None) -> Tensor:
        noisy, context, t = inputs.split([self.network.size, self.network.context, 1], dim=1)
        return self.network(noisy, context, self.features(t))

    def masks(self, *given: Any) -> None:
        """Return no masks."""

    def squares(self) -> float:
        """Return the penalty: none."""
        return 0.0


def network_of(name: str, problem: InferenceProblem, context: int, scale: float) -> Split:
    """Return the paper's network called `naive_mlp` or `unet`."""
    sizes = problem.size, context, 2 * FREQUENCIES
    return Split(free_form_network(name, *sizes, {}, problem.shape), TimeFeatures(scale))


class CMPEImage(CMPEPaper):
    """Consistency training of images as published.

    Arguments:
        problem: names, bounds and shapes.
        network: naive_mlp or unet.
        T: the longest time.
    """

    def __init__(
        self, problem: InferenceProblem, *, network: str = "unet", T: float = 200.0
    ) -> None:
        super().__init__(
            problem, protocol="as_coded", width=1, depth=1, dropout=0.0, l2=0.0, sigma=0.5, T=T,
            sampling_steps=2, summary=SUMMARY,
        )  # fmt: skip
        self.network = network_of(network, problem, self.summary.width, 1000 / T)  # type: ignore[assignment]

    @property
    def row_memory(self) -> int:
        return self.network.network.row_memory  # type: ignore[union-attr, no-any-return]


class FMPEImage(Estimator):
    """Flow matching of images as published.

    Arguments:
        problem: names, bounds and shapes.
        network: naive_mlp or unet.
        times: t for one simulation in an optimiser step.
        sampling_steps: K + 1.
    """

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        network: str = "unet",
        times: int = 32,
        sampling_steps: int = 249,
    ) -> None:
        free = (math.inf,) * problem.size
        unbounded = replace(problem, low=tuple(-high for high in free), high=free)
        super().__init__(unbounded, bounds="reflect", summary=SUMMARY)
        self.problem, self.repeats, self.sampling_steps = problem, times, sampling_steps
        self.network = network_of(network, problem, self.summary.width, 1000.0)

    @property
    def row_memory(self) -> int:
        return self.network.network.row_memory

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take the range of x; nothing is standardised."""
        self.range.fit(x)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.summary(x)
        z = torch.randn_like(u)
        u, z, context = (rows.repeat_interleave(self.repeats, 0) for rows in (u, z, context))
        t = torch.rand(len(u), 1, device=u.device)
        error = self.velocity((1 - t) * z + t * u, context, t) - (u - z)
        return (error + F.softplus(-2 * error) - math.log(2)).mean()  # log cosh

    def velocity(self, u: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return v(u, t; x), shape (rows, D)."""
        return self.network(torch.cat([u, context, t], dim=1))

    def sample_latent(
        self, context: Tensor, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Tensor:
        count = sampling_steps if isinstance(sampling_steps, int) else self.sampling_steps
        u, step = self.noise(context, generator), 1 / max(1, count - 1)
        for k in range(count):
            u = u + step * self.velocity(u, context, torch.full_like(u[:, :1], k * step))
        return u
