"""Consistency model posterior estimation as it was published, every choice by name.

    f(u_t, t; x) = c_skip(t) u_t + c_out(t) F(u_t, x, t),   u_t = u + t z,   z ~ N(0, I)
    c_skip = s^2 / ((t - epsilon)^2 + s^2),   c_out = s (t - epsilon) / sqrt(s^2 + t^2)
    loss = E [ w(t_i, t_{i+1}) d(f(u + t_{i+1} z, t_{i+1}), f(u + t_i z, t_i)) ] + l2 sum W^2

without gradient through the second f, on the grid and the curriculum of `estimators.consistency` and
`estimators.cmpe`. The paper's public code departs from its text and from the method that it builds on
in places that move its figures: `protocol` sets all of them, and each can be chosen by itself.

    choice             as_coded      corrected
    extra_interval     True          False      grids of N + 1 intervals, or of N
    validation_ticks   1 / 16        0          the curriculum's counter runs on while validating
    huber_norm         coordinate    vector     d of each coordinate, averaged, or of the vector
    masks              independent   shared     dropout masks of the two f in the loss
    dropout_always     True          False      dropout in validation and in draws as well
    sigma_trainable    True          False      s^2 and s drift apart as two weights
    start              T             marginal   a draw starts at T z, or at sqrt(T^2 + s^2) z
    bounds             ignore        reflect    draws leave the prior's box, or are folded back

What the paper chose on purpose is the same in both: theta and x as they are, t as it is, no c_in. The
estimator to use is `estimators.cmpe`; this one is for comparison with the paper.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440. Song, Dhariwal: Improved Techniques for Training Consistency
Models (2023), arXiv 2310.14189.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper.mlp import PaperMLP
from benchmarks.paper.protocol import IGNORE, PROTOCOLS, one_of, switch
from estimators.checks import within
from estimators.consistency import ConsistencyEstimator, log_normal_probabilities
from estimators.network.time import LogTimeFeatures
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.transform import LIMIT

FREQUENCIES = 16  # of log t


class CMPEPaper(ConsistencyEstimator):
    """Posterior estimator by consistency training as published.

    Arguments:
        problem: names, bounds and shapes.
        protocol: as_coded or corrected: the values of the next eight where they are None.
        extra_interval: whether a stage has one interval more than N = min(s0 2^k, s1).
        validation_ticks: by how much faster the curriculum runs: the steps of validation that its
            counter takes for steps of training, 1 / (steps of an epoch). 1 / 16: 1024 rows in
            batches of 64.
        huber_norm: coordinate, the mean of sqrt(a_j^2 + c^2) - c over coordinates j, or vector,
            sqrt(|a|^2 + c^2) - c.
        masks: independent or shared dropout masks of both sides of the loss.
        dropout_always: whether dropout is active outside of training too.
        sigma_trainable: whether s^2 (in c_skip and under the root) and s are trained, each by itself.
        start: spread of the first noise of a draw: T, or marginal, sqrt(T^2 + s^2).
        bounds: ignore, or a treatment of bounded parameters, see `estimators.transform`.
        width, depth, dropout: units, residual layers and dropout of F.
        l2: weight of the squared kernels of F, but for its last layer's.
        time_input: raw, t itself, or log_fourier, sines and cosines of log t.
        scale_input: whether F sees u_t / sqrt(s^2 + t^2) in place of u_t.
        standardise_theta, standardise_x: whether parameters and outputs are standardised.
        sigma: s: per_dimension or shared, from the training parameters, or a number.
        epsilon, T: the shortest and the longest time.
        rho: exponent of the grid.
        s0, s1: N at the start and at the end of training.
        times: intervals drawn log_normal, by the shares of a normal log t, or uniform.
        p_mean, p_std: mean and standard deviation of that log t.
        weighting: inverse, w = 1 / (t_{i+1} - t_i), or none, w = 1.
        huber: c / sqrt(D).
        sampling_steps: network passes for a draw.
        visit_epsilon: whether the last pass is at epsilon, where f is the identity.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
        LookupError: unknown summary network.
    """

    variance: Tensor  # s^2, shape (D,) or (1,)
    spread: Tensor  # s

    def __init__(
        self,
        problem: InferenceProblem,
        *,
        protocol: str = "corrected",
        extra_interval: bool | None = None,
        validation_ticks: float | None = None,
        huber_norm: str | None = None,
        masks: str | None = None,
        dropout_always: bool | None = None,
        sigma_trainable: bool | None = None,
        start: str | None = None,
        bounds: str | None = None,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.05,
        l2: float = 1e-5,
        time_input: str = "raw",
        scale_input: bool = False,
        standardise_theta: bool = False,
        standardise_x: bool = False,
        sigma: str | float = "per_dimension",
        epsilon: float = 1e-3,
        T: float = 10.0,
        rho: float = 7.0,
        s0: int = 10,
        s1: int = 50,
        times: str = "log_normal",
        p_mean: float = -1.1,
        p_std: float = 2.0,
        weighting: str = "inverse",
        huber: float = 0.00054,
        sampling_steps: int = 10,
        visit_epsilon: bool = False,
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        one_of("protocol", protocol, PROTOCOLS)
        choices = PROTOCOLS[protocol].override(
            extra_interval=extra_interval,
            validation_ticks=validation_ticks,
            huber_norm=huber_norm,
            masks=masks,
            dropout_always=dropout_always,
            sigma_trainable=sigma_trainable,
            start=start,
            bounds=bounds,
        )
        within("l2", l2, 0)
        within("epsilon", epsilon, 1e-6)
        within("T", T, 2 * epsilon)
        within("rho", rho, 1)
        within("s0", s0, 2, integer=True)
        within("s1", s1, s0, integer=True)
        within("p_mean", p_mean, -math.inf)
        within("p_std", p_std, 1e-6)
        within("huber", huber, 1e-9)
        within("sampling_steps", sampling_steps, 1, integer=True)
        one_of("time_input", time_input, ("raw", "log_fourier"))
        one_of("times", times, ("log_normal", "uniform"))
        one_of("weighting", weighting, ("inverse", "none"))
        switch("scale_input", scale_input)
        switch("standardise_theta", standardise_theta)
        switch("standardise_x", standardise_x)
        switch("visit_epsilon", visit_epsilon)
        if isinstance(sigma, str):
            one_of("sigma", sigma, ("per_dimension", "shared"))
        else:
            within("sigma", sigma, 1e-6)
        ignored = choices.bounds == IGNORE
        unbounded = (-math.inf,) * problem.size, (math.inf,) * problem.size
        super().__init__(
            replace(problem, low=unbounded[0], high=unbounded[1]) if ignored else problem,
            bounds="reflect" if ignored else choices.bounds,
            summary=summary,
            summary_arguments=summary_arguments,
        )
        self.problem, self.choices = problem, choices
        self.epsilon, self.T, self.rho, self.s0, self.s1 = epsilon, T, rho, s0, s1
        self.distribution, self.p_mean, self.p_std = times, p_mean, p_std
        self.weighting, self.c, self.l2 = weighting, huber * math.sqrt(problem.size), l2
        self.scale_input, self.sigma = scale_input, sigma
        self.standardise_theta, self.standardise_x = standardise_theta, standardise_x
        self.sampling_steps, self.visit_epsilon = sampling_steps, visit_epsilon
        self.features = LogTimeFeatures(FREQUENCIES) if time_input == "log_fourier" else None
        time = self.features.width if self.features else 1
        self.network = PaperMLP(
            problem.size + self.summary.width + time, problem.size, width, depth, dropout
        )
        spread = torch.ones(problem.size if sigma == "per_dimension" else 1)
        for name in ("variance", "spread"):
            if choices.sigma_trainable:
                self.register_parameter(name, nn.Parameter(spread.clone()))
            else:
                self.register_buffer(name, spread.clone())
        self._stages: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def row_memory(self) -> int:
        return self.network.first.in_features + 3 * self.network.first.out_features

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        """Take means, scales, ranges and s from training rows; draws have no limits, as the paper's have none.

        Raises:
            ValueError: outputs too large to be taken as they are.
        """
        if self.standardise_theta:
            self.transform.fit(theta)
        if self.standardise_x:
            self.summary.fit(x)
        elif (largest := max(float(values.abs().max()) for values in x.values())) > LIMIT:
            raise ValueError(
                f"x reaches {largest:g} and standardise_x is False: outputs are taken as they are "
                f"and clamped at {LIMIT:g}; valid: standardise_x = True"
            )
        self.range.fit(x)
        with torch.no_grad():
            self.variance.copy_(self._variance(self.transform(theta)))
            self.spread.copy_(self.variance.sqrt())

    def _variance(self, u: Tensor) -> Tensor:
        """Return s^2 at the start of training, as large as `variance`."""
        if not isinstance(self.sigma, str):
            return torch.full_like(self.variance, self.sigma**2)
        variance = u.double().var(0, correction=0)
        return variance if self.sigma == "per_dimension" else variance.mean(0, keepdim=True)

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.summary(x)
        table, edges = self.stage(progress, u.device)
        interval = torch.searchsorted(edges, torch.rand(len(u), device=u.device))
        below, above, weight = table.index_select(0, interval).split(1, dim=1)
        z = torch.randn_like(u)
        masks = self.masks(len(u), u.device)
        shared = self.choices.masks == "shared"
        with torch.no_grad():
            others = masks if shared else self.masks(len(u), u.device)
            target = self.f(torch.addcmul(u, below, z), context, below, others)
        gap = self.f(torch.addcmul(u, above, z), context, above, masks) - target
        return (weight * self.distance(gap)).mean() + self.l2 * self.network.squares()

    def distance(self, gap: Tensor) -> Tensor:
        """Return the pseudo-Huber distance of differences (rows, D), shape (rows, 1)."""
        if self.choices.huber_norm == "vector":
            return (gap.square().sum(1, keepdim=True) + self.c**2).sqrt() - self.c
        return ((gap.square() + self.c**2).sqrt() - self.c).mean(1, keepdim=True)

    def f(self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None) -> Tensor:
        """Return the consistency function, shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x, shape (rows, C).
            t: shape (rows, 1) or (1, 1).
            masks: dropout masks (K, rows, width); None drops nothing.
        """
        late, inverse = t - self.epsilon, (self.variance + t.square()).rsqrt()
        skip = self.variance / (late.square() + self.variance)
        time = self.features(t[:, 0]) if self.features else t
        seen = noisy * inverse if self.scale_input else noisy
        inputs = torch.cat([seen, context, time.expand(len(noisy), -1)], dim=1)
        output = self.network(inputs, masks)
        return torch.addcmul(skip * noisy, self.spread * late * inverse, output)

    def masks(
        self, rows: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Return fresh dropout masks (K, rows, width), None where dropout is not active."""
        if not (self.training or self.choices.dropout_always):
            return None
        return self.network.masks(rows, device, generator)

    def intervals(self, progress: float) -> int:
        """Return the intervals of the grid at this share of training.

        The counter of K steps takes `validation_ticks` more for each, and doubles N whenever another
        K / (log2(s1 / s0) + 1) of them are full: a function of progress alone.
        """
        counted = progress * (1 + self.choices.validation_ticks)
        doublings = int(counted * (math.log2(self.s1 / self.s0) + 1))
        return min(self.s0 * 2**doublings, self.s1) + self.choices.extra_interval

    def stage(self, progress: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return t_i, t_{i+1} and w of each interval i, (N, 3), and how likely i is less than 1 ... N."""
        key = self.intervals(progress), device
        if key not in self._stages:
            t = self.grid(key[0])
            gap = t.diff()
            if self.distribution == "log_normal":
                shares = log_normal_probabilities(t, self.p_mean, self.p_std)
            else:
                shares = torch.full_like(gap, 1 / len(gap))
            weight = 1 / gap if self.weighting == "inverse" else torch.ones_like(gap)
            table = torch.stack([t[:-1], t[1:], weight], dim=1)
            edges = shares.cumsum(0)[:-1]
            self._stages[key] = table.float().to(device), edges.float().to(device)
        return self._stages[key]

    def times(self, sampling_steps: int | Sequence[float]) -> list[float]:
        if self.visit_epsilon and isinstance(sampling_steps, int) and sampling_steps > 1:
            return [*super().times(sampling_steps - 1), self.epsilon]
        return super().times(sampling_steps)

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        times = self.times(self.sampling_steps if sampling_steps is None else sampling_steps)
        u = torch.zeros(len(context), self.problem.size, device=context.device)
        for k, t in enumerate(times):
            added = math.sqrt(t**2 - self.epsilon**2) if k else self.initial_spread(t)
            noisy = u + added * self.noise(context, generator)
            masks = self.masks(len(u), u.device, generator)
            u = self.f(noisy, context, torch.full((1, 1), t, device=u.device), masks)
        return u

    def initial_spread(self, t: float) -> float | Tensor:
        """Return the spread of the noise that a draw starts from at time t."""
        return (self.variance + t**2).sqrt() if self.choices.start == "marginal" else t

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        if self.choices.dropout_always and self.network.dropout:
            raise NotImplementedError(
                "dropout stays active in draws, which are then no function of one noise and have no "
                "density: choose dropout_always = False"
            )
        times = self.times(self.sampling_steps if sampling_steps is None else sampling_steps)
        return super().transport(self.initial_spread(times[0]) / times[0] * z, context, times)

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        return self.f(noisy, context, t, masks)
