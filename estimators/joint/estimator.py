"""The joint distribution of parameters and outputs by one transformer, and all its conditionals.

The variables are v = (u, y): the parameters u after the transform, and the standardised elements y of the
outputs. A conditional says of each variable whether it is a condition, a target, or absent. With v_t = v + t z
on the targets, and a scale c_in on them alone, a denoiser gives the mean of the targets:

    D(v_t, t; s) = c_skip(t) v_t + c_out(t) F(c_in(t) v_t, s, t)
    loss = E [ mean over the targets of (F - F*)^2 ],   F* = (v - c_skip v_t) / c_out

where the states s are random (`estimators.joint.states`). So one training gives p(theta | x), p(x | theta),
p(theta_1 | theta_2, x), and these where outputs are absent.

Gloeckler, Deistler, Weilbach, Wood, Macke: All-in-one simulation-based inference (2024), arXiv 2404.09636.
Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models (2022),
arXiv 2206.00364.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from estimators.diffusion import DiffusionEstimator, DiffusionSettings
from estimators.estimator import Phase
from estimators.joint.density import log_density
from estimators.joint.graph import adjacency
from estimators.joint.network import JointTransformer
from estimators.joint.posterior import JointPosterior
from estimators.joint.states import TARGET, RandomStates
from estimators.joint.variables import Variables
from estimators.network.time import LogTimeFeatures
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import PositiveInt

Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class JointSettings(DiffusionSettings):
    """Settings of `Joint`: those of `estimators.diffusion.DiffusionSettings`, and its own.

    Arguments:
        width: size of a token.
        depth: number of blocks of attention.
        heads: attention heads; a divisor of the width.
        frequencies: of the features of a value.
        posterior_share: share of the rows that train p(theta | x).
        likelihood_share: share of the rows that train p(x | theta); all others train random conditionals.
        absent_share: share of the rows in which outputs are absent.
        graph: names of parameters and outputs with those that they depend on directly, see
            `estimators.joint.graph`; only these tokens attend to each other. None: all do.
        bounds: treatment of bounded parameters, see `estimators.transform`.
    """

    width: PositiveInt = 64
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    frequencies: PositiveInt = 6
    posterior_share: Share = 0.5
    likelihood_share: Share = 0.1
    absent_share: Share = 0.25
    graph: dict[str, list[str]] | None = None
    bounds: str = "reflect"

    @model_validator(mode="after")
    def _shares_are_at_most_one(self) -> Self:
        if self.posterior_share + self.likelihood_share > 1:
            raise ValueError(
                f"posterior_share = {self.posterior_share} and likelihood_share = "
                f"{self.likelihood_share}: valid is a sum of at most 1"
            )
        return self


class Joint(DiffusionEstimator):
    """Estimator of all conditionals by denoising, drawn by a second-order solver of the probability flow.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `JointSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    learning_rate = 2e-3
    settings_type = JointSettings
    has_conditionals = True
    summary: Variables

    def __init__(self, problem: InferenceProblem, settings: JointSettings) -> None:
        super().__init__(problem, bounds=settings.bounds)
        self.follow(settings)
        self.summary = variables = Variables(problem)
        self.preconditioning = Preconditioning()
        self.features = LogTimeFeatures(settings.features)
        self.states = RandomStates(
            variables.theta_size,
            variables.x_size,
            settings.posterior_share,
            settings.likelihood_share,
            settings.absent_share,
        )
        self.network = self.transformer()

    def transformer(self) -> JointTransformer:
        """Return a new network with the settings of this estimator."""
        settings = self.settings
        assert isinstance(settings, JointSettings)
        return JointTransformer(
            self.summary.size,
            self.features.width,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            frequencies=settings.frequencies,
            connected=None if settings.graph is None else adjacency(self.problem, settings.graph),
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("training", 1.0, list(self.parameters()), best=True),)

    @property
    def row_memory(self) -> int:
        return self.network.row_memory

    def context(self, x: Mapping[str, Tensor], rows: int) -> Tensor:
        return self.summary(x) if x else self.summary.unconditional(rows, self.transform.low)

    def posterior(self, provenance: Mapping[str, Any] | None = None) -> JointPosterior:
        return JointPosterior(self, provenance)

    @property
    def denoiser(self) -> Joint:
        """The estimator whose probability flow gives densities."""
        return self

    def conditioned(self, context: Tensor, u: Tensor) -> Tensor:
        return self.summary.given(context, u)

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        """Return log p(u | context) along the probability flow, shape (rows,), see `estimators.joint.density`."""
        values = F.pad(u, (0, self.summary.x_size))
        return log_density(self, values, context)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        values, states = self.random_conditional(theta, x)
        target = states == TARGET
        t = self.levels(len(values), values.device)
        noisy = torch.addcmul(values, t, torch.randn_like(values))
        scales = self.preconditioning
        wanted = scales.target(values, noisy, t)
        scaled = torch.where(target, scales.c_in(t) * noisy, values)
        output = self.network(scaled, states, self.features(t[:, 0]))
        error = torch.where(target, (output - wanted).square(), 0.0)
        return (error.sum(1) / target.sum(1)).mean()

    def random_conditional(self, theta: Tensor, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return values of all variables (rows, N) and random states (rows, N), int64."""
        values, _ = self.summary.split(self.context(x, len(theta)))
        values = torch.cat([self.transform(theta), values[:, self.problem.size :]], dim=1)
        return values, self.states.draw(len(values), values.device)

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D(v_t, t), with the values of the conditions in their places.

        Arguments:
            noisy: of all variables (rows, N), or of the parameters (rows, D), the others being no targets.
            context: see `estimators.joint.variables.Variables`, shape (rows, 2 N).
            t: shape (rows, 1) or (1, 1).
        """
        return self.conditional(self.network, self.preconditioning, noisy, context, t)

    def conditional(
        self,
        network: JointTransformer,
        scales: Preconditioning,
        noisy: Tensor,
        context: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Return c_skip v_t + c_out F(c_in v_t) of a network for the targets, and the values of conditions.

        Arguments:
            network: F.
            scales: c_skip, c_out and c_in.
            noisy, context, t: see `denoise`.
        """
        values, states = self.summary.split(context)
        count = noisy.shape[1]
        target = states[:, :count] == TARGET
        scaled = torch.where(target, scales.c_in(t) * noisy, values[:, :count])
        scaled = torch.cat([scaled, values[:, count:]], dim=1)
        time = self.features(t.reshape(-1)).expand(len(scaled), -1)
        output = network(scaled, states.long(), time)[:, :count]
        found = torch.addcmul(scales.c_skip(t, noisy), scales.c_out(t), output)
        return torch.where(target, found, values[:, :count])

    def sample_variables(
        self, context: Tensor, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Tensor:
        """Return one draw of all variables for each row of the context, shape (rows, N)."""
        shape = (len(context), self.summary.size)
        z = torch.randn(shape, generator=generator).to(context.device)
        return self.transport(z, context, sampling_steps)
