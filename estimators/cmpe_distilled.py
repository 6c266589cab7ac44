"""Consistency distillation: the accuracy of a diffusion posterior in a few network passes.

Training has two phases. In the first the teacher, an `estimators.npse.NPSE`, learns the posterior. In the
second its weights are fixed, and a consistency function f (see `estimators.consistency`), the student,
learns where the teacher's probability flow leads. The flow is solved from u_T = u + T z, and at every
point of its path f is to give its end:

    u_T -> u_{t_2} -> ... -> u_{t_N} -> u_epsilon   by DPM-Solver++(2M), T > t_k > epsilon
    loss = E [ d(f(u_{t_k}, t_k; x), u_epsilon) ],   k uniform
    d(a, b) = sqrt(|a - b|^2 + c^2) - c,   c = huber sqrt(D)

A path costs N passes of the teacher and gives N examples, which are kept and used several times. Those of
many parameters are kept as c_in(t) u_t in half precision, whose relative error of 5e-4 is small beside the
noise t. Common
consistency models only require neighbours on a path to agree, so that each step of the flow adds its error
to those below; here the ends are known. Consistency training (`estimators.cmpe`) has the single simulated
theta in place of the path's end, whose noise limits it at small budgets; a denoiser averages over it. The
flow can also be solved between the simulations: the summary of a simulated x is perturbed by a normal
vector of `jitter` standard deviations.

Luhman, Luhman: Knowledge Distillation in Iterative Generative Models (2021), arXiv 2101.02388. Song,
Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469. Schmitt, Pratz, Koethe,
Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
2312.05440.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from estimators.consistency import ConsistencyEstimator, pseudo_huber
from estimators.estimator import Phase, Replay
from estimators.network import free_form_network
from estimators.npse import NPSE, NPSESettings
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import (
    Exponent,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

SINGLE_BYTES = 16_000_000  # of kept points in single precision; more are kept in half precision


class CMPEDistilledSettings(NPSESettings):
    """Settings of `CMPEDistilled`: those of its teacher, and its own.

    The student f has the network of the teacher's denoisers, without dropout.

    Arguments:
        student_depth: the depth of f, where it is to differ; None is the denoisers'.
        teacher_fraction: share of the optimiser steps that train the teacher.
        student_rate: factor on the learning rate of the student.
        jitter: standard deviation of the random vectors added to the summary of x in distillation, in
            standard deviations of the summary.
        points: number N of points of a path.
        replay_size: paths that are kept; fewer where they would take more than `replay_mb`.
        replay_mb: largest memory of the kept paths' points, 2^20 bytes.
        huber: c / sqrt(D).
        rho: exponent of the Karras grid on which f draws.
        sampling_steps: network passes for a draw.
    """

    student_depth: NonNegativeInt | None = None
    teacher_fraction: Annotated[float, Field(strict=True, ge=0.01, le=0.99)] = 0.7
    student_rate: PositiveFloat = 0.33
    jitter: NonNegativeFloat = 0.05
    points: Annotated[int, Field(strict=True, ge=3)] = 20
    replay_size: PositiveInt = 2048
    replay_mb: PositiveInt = 256
    huber: Annotated[float, Field(strict=True, ge=1e-9)] = 0.01
    rho: Exponent = 7.0
    sampling_steps: PositiveInt = 10

    @property
    def student_settings(self) -> dict[str, Any]:
        """The settings of the student's network."""
        given = {**self.network_settings, "dropout": (self.network_arguments or {}).get("dropout")}
        return given if self.student_depth is None else {**given, "depth": self.student_depth}


class CMPEDistilled(ConsistencyEstimator):
    """Posterior estimator by consistency distillation of averaged denoisers.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `CMPEDistilledSettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    learning_rate = 3e-3
    settings_type = CMPEDistilledSettings

    def __init__(self, problem: InferenceProblem, settings: CMPEDistilledSettings) -> None:
        teacher = NPSE(problem, settings)
        super().__init__(problem, settings, shared=teacher)
        self.register_load_state_dict_pre_hook(_move_to_teacher)
        self.teacher, self.settings, self.inputs = teacher, settings, teacher.inputs
        self.epsilon, self.T, self.rho = settings.epsilon, settings.T, settings.rho
        self.input_scale, self.sampling_steps = settings.input_scale, settings.sampling_steps
        self.teacher_fraction, self.student_rate = settings.teacher_fraction, settings.student_rate
        self.points = settings.points
        values = self.points * problem.latent_size  # of one path
        self.half_precision = 4 * values * settings.replay_size > SINGLE_BYTES
        most = settings.replay_mb * 2**20 // ((2 if self.half_precision else 4) * values)
        self.replay_size = max(1, min(settings.replay_size, most))
        self.c = settings.huber * math.sqrt(problem.latent_size)
        self.preconditioning = Preconditioning(epsilon=settings.epsilon)
        sizes = problem.latent_size, self.summary.width, self.inputs.features.width
        self.student = free_form_network(
            settings.network, *sizes, settings.student_settings, problem.shape
        )

    @property
    def row_memory(self) -> int:
        return max(self.teacher.row_memory, self.student.row_memory)

    @property
    def phases(self) -> tuple[Phase, ...]:
        teacher = [*self.teacher.denoisers.parameters(), *self.summary.parameters()]
        student = list(self.student.parameters())
        replay = Replay(every=self.points, keep=self.replay_size)
        return (
            Phase("denoisers", self.teacher_fraction, teacher, best=True),
            Phase(
                "distillation", 1 - self.teacher_fraction, student, self.student_rate, replay=replay
            ),
        )

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        super().standardise(theta, x)
        if self.teacher.centre is not None:
            context = self.context(x, len(theta))
            self.teacher.centre.fit(self.transform(theta), context)
            self._limit(self.teacher.latent(theta, context))

    def sample_latent(
        self, context: Tensor, generator: torch.Generator, sampling_steps: SamplingSteps
    ) -> Tensor:
        drawn = super().sample_latent(context, generator, sampling_steps)
        return self.teacher.placed(drawn, context)

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        return self.teacher.placed(super().transport(z, context, sampling_steps), context)

    def begin(self, phase: int) -> None:
        if phase == 1:  # f starts as a denoiser; layers that only f has keep their first weights
            start, taught = self.student.state_dict(), self.teacher.denoisers[0].state_dict()
            fits = {k: v for k, v in taught.items() if k in start and v.shape == start[k].shape}
            self.student.load_state_dict({**start, **fits})

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        if progress < self.teacher_fraction - 1e-9:
            return self.teacher.loss(theta, x, progress)
        return self.replay_loss(self.examples(theta, x))

    @torch.no_grad()
    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return paths of the flow, one for each row, on geometric grids that are moved at random.

        Returns:
            u (rows, N, D), t (rows, N), end (rows, D), context (rows, C). With many parameters u holds
            c_in(t) u_t in half precision.
        """
        context = self._fixed_summary(x, len(theta))
        u = self.teacher.latent(theta, context)
        if x:
            spread = self.settings.jitter * self.whole_batch(context).std(0, correction=0)
            context = torch.addcmul(context, spread, torch.randn_like(context))
        t = self.teacher.moved_times(len(u), self.points, u.device)
        *path, end = self.teacher.path(u + self.T * torch.randn_like(u), context, t)
        t = t[:, :-1]
        kept = [self._packed(u, t[:, k : k + 1]) for k, u in enumerate(path)]
        return {"u": torch.stack(kept, 1), "t": t, "end": end, "context": context}

    def _packed(self, u: Tensor, t: Tensor) -> Tensor:
        return (self.preconditioning.c_in(t) * u).half() if self.half_precision else u

    def _unpacked(self, kept: Tensor, t: Tensor) -> Tensor:
        return kept.float() / self.preconditioning.c_in(t) if self.half_precision else kept

    def replay_loss(self, examples: Mapping[str, Tensor]) -> Tensor:
        u, t, end = examples["u"], examples["t"], examples["end"]
        rows = torch.arange(len(u), device=u.device)
        point = torch.randint(u.shape[1], (len(u),), device=u.device)
        time = t[rows, point].unsqueeze(1)
        noisy = self._unpacked(u[rows, point], time)
        student = self.consistency_function(noisy, examples["context"], time)
        return pseudo_huber(student - end, self.c).mean()

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        scales = self.preconditioning
        output = self.student(*self.inputs(noisy, context, t, scales.c_in(t)), masks)
        return torch.addcmul(scales.c_skip(t, noisy), scales.c_out(t), output)

    def _fixed_summary(self, x: Mapping[str, Tensor], rows: int) -> Tensor:
        """Return the summary of x, which no longer learns: without dropout."""
        training = self.summary.training
        self.summary.eval()
        context = self.context(x, rows)
        self.summary.train(training)
        return context


def _move_to_teacher(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Rename the weights of an artefact from before the teacher was an estimator of its own."""
    if not any(key.startswith(f"{prefix}denoisers.") for key in state):
        return
    for key in [key for key in state if key.startswith(prefix)]:
        part = key[len(prefix) :].split(".")[0]
        if part == "denoisers":
            state[f"{prefix}teacher.{key[len(prefix) :]}"] = state.pop(key)
        elif part in ("transform", "summary", "range"):
            state[f"{prefix}teacher.{key[len(prefix) :]}"] = state[key]
