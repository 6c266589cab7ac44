"""Consistency model posterior estimation.

A consistency function f maps a noisy parameter u_t = u + t z, z ~ N(0, I), at any time t in
[epsilon, T] to a draw from p(u | x), and leaves u at t = epsilon:

    f(u_t, t; x) = c_skip(t) u_t + c_out(t) F(c_in(t) u_t, x, t)
    c_skip = s^2 / ((t - epsilon)^2 + s^2),   c_out = s (t - epsilon) / sqrt(s^2 + t^2)
    c_in   = 1 / sqrt(s^2 + t^2),             s the spread of u

Neighbouring points t_i < t_{i+1} of a grid, reached with the same z, must give the same answer. The
teacher f(u + t_i z, t_i) is the same network, with the same dropout mask and without gradient:

    loss = E [ d(f(u + t_{i+1} z, t_{i+1}), f(u + t_i z, t_i)) / (t_{i+1} - t_i) ]
    d(a, b) = sqrt(|a - b|^2 + c^2) - c,  c = huber sqrt(D)

The grid t_i = (epsilon^(1/rho) + i/N (T^(1/rho) - epsilon^(1/rho)))^rho has N = s0 intervals at
first and doubles up to s1 as training proceeds; i is drawn so that log t is about normal. One
network pass gives a draw; further passes add noise again and repeat.

Schmitt, Pratz, Koethe, Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based
Inference (2023), arXiv 2312.05440. Song, Dhariwal: Improved Techniques for Training Consistency
Models (2023), arXiv 2310.14189.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.consistency import ConsistencyEstimator, log_normal_shares
from estimators.estimator import Problem, within
from estimators.network import free_form_network
from estimators.network.base import Pair
from estimators.network.time import LogTimeFeatures


class CMPE(ConsistencyEstimator):
    """Posterior estimator by consistency training with a free-form network.

    Arguments:
        problem: names, bounds and shapes.
        network: name of F, see `estimators.network`.
        width, depth, dropout: its size and dropout; None is the network's own default.
        network_arguments: its other settings.
        features: frequencies of log t that F sees.
        gain: factor on the inputs u and x of F: the spatial frequencies F starts with.
        sigma: s, the spread of the standardised parameters.
        epsilon, T: the shortest and the longest time.
        rho: exponent of the grid.
        s0, s1: intervals of the grid at the start and at the end of training.
        p_mean, p_std: mean and standard deviation of log t.
        huber: c / sqrt(D).
        steps: network passes for a draw.
        bounds: treatment of bounded parameters, see `estimators.transform`.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
    """

    learning_rate = 3e-3

    def __init__(
        self,
        problem: Problem,
        *,
        network: str = "mlp",
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
        network_arguments: Mapping[str, Any] | None = None,
        features: int = 16,
        gain: float = 6.0,
        sigma: float = 1.0,
        epsilon: float = 1e-3,
        T: float = 10.0,
        rho: float = 7.0,
        s0: int = 10,
        s1: int = 50,
        p_mean: float = -3.0,
        p_std: float = 2.0,
        huber: float = 0.00054,
        steps: int = 10,
        bounds: str = "reflect",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("features", features, 1, integer=True)
        within("gain", gain, 1e-6)
        within("sigma", sigma, 1e-6)
        within("epsilon", epsilon, 1e-6)
        within("T", T, 2 * epsilon)
        within("rho", rho, 1)
        within("s0", s0, 2, integer=True)
        within("s1", s1, s0, integer=True)
        within("p_mean", p_mean, -math.inf)
        within("p_std", p_std, 1e-6)
        within("huber", huber, 0)
        within("steps", steps, 1, integer=True)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        self.sigma, self.epsilon, self.T, self.rho = sigma, epsilon, T, rho
        self.s0, self.s1, self.p_mean, self.p_std = s0, s1, p_mean, p_std
        self.gain, self.steps = gain, steps
        self.c = huber * math.sqrt(problem.size)
        self.features = LogTimeFeatures(features)
        self.network = free_form_network(
            network,
            problem.size,
            self.summary.width,
            self.features.width,
            {"width": width, "depth": depth, "dropout": dropout, **(network_arguments or {})},
        )
        self._stages: dict[tuple[int, torch.device], Stage] = {}

    @property
    def floats(self) -> int:
        return self.network.floats

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.gain * self.summary(x)
        stage = self.stage(progress, u.device)
        i = stage.draw(len(u))
        masks = self.network.masks(len(u), u.device)
        noise = torch.randn_like(u)
        pair = Pair(u, noise, context, i, stage.table, stage.weights, self.c)
        return self.network.contrast(pair, masks)

    def consistency(self, noisy: Tensor, context: Tensor, columns: Tensor) -> Tensor:
        """Return f(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x times the gain, shape (rows, C).
            columns: `self.columns(t)` for the rows' times.
        """
        _, skip, out, scale = columns[:, :4].split(1, dim=1)
        output = self.network(scale * noisy, context, columns[:, 4:])
        return torch.addcmul(skip * noisy, out, output)

    def columns(self, t: Tensor) -> Tensor:
        """Return t, c_skip, c_out, gain c_in and the features of times (rows,), side by side."""
        variance, late = self.sigma**2, t - self.epsilon
        spread = (variance + t.square()).rsqrt()
        skip = variance / (late.square() + variance)
        head = torch.stack([t, skip, self.sigma * late * spread, self.gain * spread], dim=1)
        return torch.cat([head, self.features(t)], dim=1)

    def stage(self, progress: float, device: torch.device) -> Stage:
        """Return the discretisation at this share of training."""
        doublings = math.log2(self.s1 / self.s0)
        intervals = min(self.s0 * 2 ** int(progress * (doublings + 1)), self.s1)
        key = (intervals, device)
        if key not in self._stages:
            self._stages[key] = Stage(self, intervals, device)
        return self._stages[key]

    def jump(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        columns = self.columns(t).expand(len(noisy), -1)
        return self.consistency(noisy, self.gain * context, columns)


class Stage:
    """One discretisation of time: what the loss looks up for an interval i.

    Arguments:
        model: the estimator, for its grid and scalings.
        intervals: N.
        device: where the tables lie.
    """

    def __init__(self, model: CMPE, intervals: int, device: torch.device) -> None:
        t = model.grid(intervals)
        probability = log_normal_shares(t, model.p_mean, model.p_std)
        inverse = 1 / t.diff()
        # The mean weight is 1 in every stage, so that one learning rate suits them all.
        self.weights = (inverse / (inverse * probability).sum()).float().to(device)
        columns = model.columns(t.float())
        self.table = torch.stack([columns[:-1], columns[1:]]).to(device)
        self.edges = probability.cumsum(0)[:-1].float().to(device)

    def draw(self, rows: int) -> Tensor:
        """Draw intervals i, shape (rows,)."""
        return torch.searchsorted(self.edges, torch.rand(rows, device=self.edges.device))
