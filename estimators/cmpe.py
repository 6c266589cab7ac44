"""Consistency model posterior estimation.

A consistency function f maps a noisy parameter u_t = u + t z, z ~ N(0, I), at any time t in
[epsilon, T] to a draw from p(u | x), and leaves u at t = epsilon:

    f(u_t, t; x) = c_skip(t) u_t + c_out(t) F(a c_in(t) u_t, a x, t)

with the coefficients of `estimators.preconditioning` and the input scale a. Neighbouring points
t_i < t_{i+1} of a grid, reached with the same z, must give the same answer. The teacher
f(u + t_i z, t_i) is the same network, with the same dropout mask and without gradient:

    loss = E [ w_i d(f(u + t_{i+1} z, t_{i+1}), f(u + t_i z, t_i)) ],   w_i proportional to 1 / (t_{i+1} - t_i)
    d(a, b) = sqrt(|a - b|^2 + c^2) - c,   c = huber sqrt(D)

with weights w_i of mean 1. The grid t_i = (epsilon^(1/rho) + i/N (T^(1/rho) - epsilon^(1/rho)))^rho has
N = s0 intervals at first and doubles up to s1 as training proceeds; i is drawn so that log t is about
normal. One network pass gives a draw; further passes add noise again and repeat.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440. Song, Dhariwal: Improved Techniques for Training Consistency
Models (2023), arXiv 2310.14189.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from estimators.consistency import (
    ConsistencyEstimator,
    log_normal_probabilities,
    pseudo_huber,
    times_apart,
)
from estimators.network import free_form_network, fused
from estimators.network.inputs import NetworkInputs
from estimators.network.time import LogTimeFeatures
from estimators.preconditioning import Preconditioning
from estimators.problem import InferenceProblem
from estimators.settings import (
    EstimatorSettings,
    Exponent,
    Float,
    NetworkSpec,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)


class CMPESettings(EstimatorSettings, NetworkSpec):
    """Settings of `CMPE`.

    Arguments:
        features: frequencies of log t that F sees.
        input_scale: a, factor on the inputs u and x of F: the spatial frequencies F starts with.
        sigma: s, the standard deviation of the standardised parameters.
        epsilon, T: the shortest and the longest time.
        rho: exponent of the grid.
        s0, s1: intervals of the grid at the start and at the end of training.
        p_mean, p_std: mean and standard deviation of log t.
        huber: c / sqrt(D).
        sampling_steps: network passes for a draw.
    """

    features: PositiveInt = 16
    input_scale: PositiveFloat = 6.0
    sigma: PositiveFloat = 1.0
    epsilon: PositiveFloat = 1e-3
    T: Float = 10.0
    rho: Exponent = 7.0
    s0: Annotated[int, Field(strict=True, ge=2)] = 10
    s1: PositiveInt = 50
    p_mean: Float = -3.0
    p_std: PositiveFloat = 2.0
    huber: NonNegativeFloat = 0.00054
    sampling_steps: PositiveInt = 10

    @model_validator(mode="after")
    def _grid_is_possible(self) -> Self:
        times_apart(self.epsilon, self.T)
        if self.s1 < self.s0:
            raise ValueError(f"s1 = {self.s1}: valid is at least s0 = {self.s0}")
        return self


class CMPE(ConsistencyEstimator):
    """Posterior estimator by consistency training with a free-form network.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `CMPESettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    learning_rate = 3e-3
    settings_type = CMPESettings

    def __init__(self, problem: InferenceProblem, settings: CMPESettings) -> None:
        super().__init__(problem, settings)
        self.settings, self.input_scale = settings, settings.input_scale
        self.epsilon, self.T, self.rho = settings.epsilon, settings.T, settings.rho
        self.sampling_steps = settings.sampling_steps
        self.c = settings.huber * math.sqrt(problem.latent_size)
        self.preconditioning = Preconditioning(settings.sigma, settings.epsilon)
        self.inputs = NetworkInputs(LogTimeFeatures(settings.features), settings.input_scale)
        sizes = problem.latent_size, self.summary.width, self.inputs.features.width
        self.network = free_form_network(
            settings.network, *sizes, settings.network_settings, problem.shape
        )
        self._discretisations: dict[tuple[int, torch.device], Discretisation] = {}

    @property
    def row_memory(self) -> int:
        return self.network.row_memory

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u = self.transform(theta)
        context = self.context(x, len(u))
        grid = self.discretisation(progress, u.device)
        i = grid.sample_intervals(len(u))
        masks = self.network.masks(len(u), u.device)
        z = torch.randn_like(u)
        if torch.is_grad_enabled() and fused.applies(self.network, u):
            return self._fused_loss(u, z, context, i, grid, masks)
        t, t_next = grid.times[i].split(1, dim=1)
        with torch.no_grad():
            teacher = self.consistency_function(u + t * z, context, t, masks)
        student = self.consistency_function(u + t_next * z, context, t_next, masks)
        return (grid.weights[i] * pseudo_huber(student - teacher, self.c)).mean()

    def _fused_loss(
        self,
        u: Tensor,
        z: Tensor,
        context: Tensor,
        i: Tensor,
        grid: Discretisation,
        masks: Tensor | None,
    ) -> Tensor:
        """Return the same loss by the optimisation of `estimators.network.fused`."""
        pair = fused.Pair(u, z, context, i, grid.table, grid.weights, self.c, self.inputs.scale)
        return fused.consistency_loss(self.network, pair, masks)

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        scales = self.preconditioning
        output = self.network(*self.inputs(noisy, context, t, scales.c_in(t)), masks)
        return torch.addcmul(scales.c_skip(t) * noisy, scales.c_out(t), output)

    def discretisation(self, progress: float, device: torch.device) -> Discretisation:
        """Return the discretisation of time when this share of training is done."""
        s0, s1 = self.settings.s0, self.settings.s1
        intervals = min(s0 * 2 ** int(progress * (math.log2(s1 / s0) + 1)), s1)
        key = (intervals, device)
        if key not in self._discretisations:
            self._discretisations[key] = Discretisation(self, intervals, device)
        return self._discretisations[key]


class Discretisation:
    """N intervals of time, the probability with which training draws each, and its weight.

    Arguments:
        model: the estimator, for its grid and coefficients.
        intervals: N.
        device: where the tensors lie.
    """

    def __init__(self, model: CMPE, intervals: int, device: torch.device) -> None:
        t = model.grid(intervals)
        probability = log_normal_probabilities(t, model.settings.p_mean, model.settings.p_std)
        inverse = 1 / t.diff()
        # The mean weight is 1 for every N, so that one learning rate suits all of training.
        self.weights = (inverse / (inverse * probability).sum()).float().to(device)
        self.cumulative = probability.cumsum(0)[:-1].float().to(device)
        single = t.float().to(device)
        self.times = torch.stack([single[:-1], single[1:]], dim=1)
        self.table = fused.time_table(single, model.preconditioning, model.inputs)

    def sample_intervals(self, rows: int) -> Tensor:
        """Draw intervals i, shape (rows,)."""
        return torch.searchsorted(self.cumulative, torch.rand(rows, device=self.cumulative.device))
