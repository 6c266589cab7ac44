"""Consistency distillation of all conditionals: draws of the joint estimator in a few network passes.

As in `estimators.cmpe_distilled` training has two phases. In the first the teacher, an
`estimators.joint.estimator.Joint`, learns all conditionals. In the second a consistency function f of the same
network learns where the teacher's probability flow leads, for random conditionals: with the states s,

    v_T -> v_{t_2} -> ... -> v_{t_N} -> v_epsilon   by DPM-Solver++(2M), on the targets of s
    loss = E [ d(f(v_{t_k}, t_k; s), v_epsilon) ],   k uniform
    d(a, b) = sqrt(|a - b|^2 + c^2) - c over the targets,   c = huber sqrt(number of targets)

Gloeckler, Deistler, Weilbach, Wood, Macke: All-in-one simulation-based inference (2024), arXiv 2404.09636.
Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from estimators.consistency import ConsistencyEstimator
from estimators.estimator import Phase, Replay
from estimators.joint.estimator import Joint, JointSettings
from estimators.joint.posterior import JointPosterior
from estimators.joint.states import CONDITION, TARGET
from estimators.joint.variables import Variables
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import Exponent, NonNegativeFloat, PositiveFloat, PositiveInt


class JointDistilledSettings(JointSettings):
    """Settings of `JointDistilled`: those of its teacher, and its own.

    Arguments:
        teacher_fraction: share of the optimiser steps that train the teacher.
        student_rate: factor on the learning rate of the student.
        jitter: standard deviation of the random numbers added to the conditions in distillation, in standard
            deviations of the training rows.
        points: number N of points of a path.
        replay_size: paths that are kept.
        huber: c / sqrt(number of targets).
        rho: exponent of the Karras grid on which f draws.
        sampling_steps: network passes for a draw.
    """

    teacher_fraction: Annotated[float, Field(strict=True, ge=0.01, le=0.99)] = 0.7
    student_rate: PositiveFloat = 0.5
    jitter: NonNegativeFloat = 0.05
    points: Annotated[int, Field(strict=True, ge=3)] = 20
    replay_size: PositiveInt = 2048
    huber: Annotated[float, Field(strict=True, ge=1e-9)] = 0.01
    rho: Exponent = 7.0
    sampling_steps: PositiveInt = 10


class JointDistilled(ConsistencyEstimator):
    """Estimator of all conditionals by consistency distillation.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `JointDistilledSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    learning_rate = Joint.learning_rate
    settings_type = JointDistilledSettings
    has_conditionals = True
    summary: Variables

    def __init__(self, problem: InferenceProblem, settings: JointDistilledSettings) -> None:
        teacher = Joint(problem, settings)
        super().__init__(problem, shared=teacher)
        self.teacher, self.settings = teacher, settings
        self.bounds = settings.bounds
        self.epsilon, self.T, self.rho = settings.epsilon, settings.T, settings.rho
        self.sampling_steps = settings.sampling_steps
        self.preconditioning = Preconditioning(epsilon=settings.epsilon)
        self.student = teacher.transformer()

    @property
    def row_memory(self) -> int:
        return self.student.row_memory

    @property
    def phases(self) -> tuple[Phase, ...]:
        share, settings = self.settings.teacher_fraction, self.settings
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        replay = Replay(every=settings.points, keep=settings.replay_size)
        return (
            Phase("denoiser", share, teacher, best=True),
            Phase("distillation", 1 - share, student, settings.student_rate, replay=replay),
        )

    def begin(self, phase: int) -> None:
        if phase == 1:  # f starts as the denoiser
            self.student.load_state_dict(self.teacher.network.state_dict())

    def posterior(self, provenance: Mapping[str, Any] | None = None) -> JointPosterior:
        return JointPosterior(self, provenance)

    @property
    def denoiser(self) -> Joint:
        """The teacher, whose probability flow gives densities."""
        return self.teacher

    def conditioned(self, context: Tensor, u: Tensor) -> Tensor:
        return self.summary.given(context, u)

    def context(self, x: Mapping[str, Tensor], rows: int) -> Tensor:
        return self.teacher.context(x, rows)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        if progress < self.settings.teacher_fraction - 1e-9:
            return self.teacher.loss(theta, x, progress)
        return self.replay_loss(self.examples(theta, x))

    @torch.no_grad()
    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return paths of the flow, one for each row, on geometric grids that are moved at random.

        Returns:
            v (rows, points, N), t (rows, points), end (rows, N), context (rows, 2 N).
        """
        values, states = self.teacher.random_conditional(theta, x)
        noise = self.settings.jitter * torch.randn_like(values)
        known = torch.where(states == CONDITION, values + noise, 0.0)
        context = torch.cat([known, states.to(values.dtype)], dim=1)
        t = self.teacher.moved_times(len(values), self.settings.points, values.device)
        start = values + self.T * torch.randn_like(values)
        *path, end = self.teacher.path(start, context, t)
        return {"v": torch.stack(path, 1), "t": t[:, :-1], "end": end, "context": context}

    def replay_loss(self, examples: Mapping[str, Tensor]) -> Tensor:
        v, t, context = examples["v"], examples["t"], examples["context"]
        rows = torch.arange(len(v), device=v.device)
        point = torch.randint(v.shape[1], (len(v),), device=v.device)
        student = self.consistency_function(v[rows, point], context, t[rows, point].unsqueeze(1))
        target = self.summary.split(context)[1] == TARGET
        difference = torch.where(target, student - examples["end"], 0.0)
        c = self.settings.huber * target.sum(1).sqrt()
        return ((difference.square().sum(1) + c.square()).sqrt() - c).mean()

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return f(v_t, t), of all variables (rows, N) or of the parameters (rows, D), see `Joint.denoise`."""
        return self.teacher.conditional(self.student, self.preconditioning, noisy, context, t)

    def sample_variables(
        self, context: Tensor, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Tensor:
        """Return one draw of all variables for each row of the context, shape (rows, N)."""
        shape = (len(context), self.summary.size)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(context.device)

        free = self.low.new_full((self.summary.x_size,), torch.inf)
        limits = torch.cat([self.low, -free]), torch.cat([self.high, free])
        return self.passes(noise, context, limits, sampling_steps)
