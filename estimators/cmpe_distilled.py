"""Consistency distillation: the accuracy of a diffusion posterior in a few network passes.

Training has two phases. First the denoisers D_m of `estimators.npse` learn the posterior. Then their
weights rest, and a consistency function f (see `estimators.consistency`) learns where the probability
flow of their mean D leads: a point u_t and the point one step of the flow below it have one answer.

    u_t' = u_t + (t' - t) (d(u_t, t) + d(u_t + (t' - t) d(u_t, t), t')) / 2,   d(u, t) = (u - D(u, t; x)) / t
    loss = E [ sqrt(|f(u_t, t; x) - f(u_t', t'; x)|^2 + c^2) - c ],   c = huber sqrt(D)

weighted by 1 / (t - t'), without gradient through f(u_t', t'). Consistency training has in place of the
flow's step the single theta that was simulated, and its noise is what limits it at small budgets; a
denoiser has averaged over it. Besides, the flow can be asked at any x: the summary of a simulated x is
moved by a random vector of `jitter` standard deviations, so that f is exact between simulations too.

Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469. Schmitt, Pratz, Koethe,
Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
2312.05440.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.consistency import ConsistencyEstimator, log_normal_shares
from estimators.estimator import Phase, Problem, within
from estimators.npse import NPSE


class CMPEDistilled(ConsistencyEstimator, NPSE):
    """Posterior estimator by consistency distillation of averaged denoisers.

    Arguments:
        problem: names, bounds and shapes.
        members, network, width, depth, dropout, network_arguments, features, gain, epsilon, T, p_mean,
            p_std: the denoisers', see `estimators.npse.NPSE`; f has the same network, without dropout.
        teaching: share of the steps that train the denoisers.
        slower: factor on the learning rate while distilling.
        jitter: spread of the random vectors added to the summary of x while distilling, in standard
            deviations of the summary.
        intervals: number N of steps of the flow between T and epsilon, on a Karras grid.
        rho: exponent of that grid.
        t_mean, t_std: mean and standard deviation of log t while distilling.
        huber: c / sqrt(D).
        steps: network passes for a draw.
        bounds: treatment of bounded parameters, see `estimators.transform`.
        summary, summary_arguments: the summary network, see `estimators.summary`; it learns with the
            denoisers.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
    """

    table: Tensor
    edges: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        members: int = 4,
        network: str = "mlp",
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
        network_arguments: Mapping[str, Any] | None = None,
        features: int = 16,
        gain: float = 3.0,
        epsilon: float = 2e-3,
        T: float = 10.0,
        p_mean: float = -2.0,
        p_std: float = 2.0,
        teaching: float = 0.6,
        slower: float = 0.33,
        jitter: float = 0.05,
        intervals: int = 20,
        rho: float = 7.0,
        t_mean: float = -1.0,
        t_std: float = 2.0,
        huber: float = 0.01,
        steps: int = 10,
        bounds: str = "reflect",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("teaching", teaching, 0.01, 0.99)
        within("slower", slower, 1e-6)
        within("jitter", jitter, 0)
        within("intervals", intervals, 2, integer=True)
        within("rho", rho, 1)
        within("t_mean", t_mean, -math.inf)
        within("t_std", t_std, 1e-6)
        within("huber", huber, 1e-9)
        super().__init__(
            problem,
            members=members,
            network=network,
            width=width,
            depth=depth,
            dropout=dropout,
            network_arguments=network_arguments,
            features=features,
            gain=gain,
            epsilon=epsilon,
            T=T,
            p_mean=p_mean,
            p_std=p_std,
            steps=steps,
            bounds=bounds,
            summary=summary,
            summary_arguments=summary_arguments,
        )
        self.teaching, self.slower = teaching, slower
        self.jitter, self.rho = jitter, rho
        self.c = huber * math.sqrt(problem.size)
        given = {"width": width, "depth": depth, **(network_arguments or {})}
        self.student = self._network(network, given)
        t = self.grid(intervals)
        shares = log_normal_shares(t, t_mean, t_std)
        weights = 1 / t.diff()
        weights = weights / (weights * shares).sum()  # 1 in the mean
        self.register_buffer(
            "table", torch.stack([t[:-1], t[1:], weights], 1).float(), persistent=False
        )
        self.register_buffer("edges", shares.cumsum(0)[:-1].float(), persistent=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        teachers = [*self.denoisers.parameters(), *self.summary.parameters()]
        return (
            Phase("denoisers", self.teaching, teachers, best=True),
            Phase("distillation", 1 - self.teaching, list(self.student.parameters()), self.slower),
        )

    def begin(self, phase: int) -> None:
        if phase == 1:
            self.student.load_state_dict(self.denoisers[0].state_dict())

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        if progress < self.teaching - 1e-9:
            return NPSE.loss(self, theta, x, progress)
        return self.distillation(theta, x)

    def distillation(self, theta: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of f on a batch, shape ()."""
        u, context = self.transform(theta), self._moved(x)
        interval = torch.searchsorted(self.edges, torch.rand(len(u), device=u.device))
        below, above, weight = self.table[interval].split(1, dim=1)
        noisy = torch.addcmul(u, above, torch.randn_like(u))
        with torch.no_grad():
            target = self.f(self.flow(noisy, context, above, below), context, below)
        gap = self.f(noisy, context, above) - target
        distance = (gap.square().sum(1) + self.c**2).sqrt() - self.c
        return (weight[:, 0] * distance).mean()

    def flow(self, u: Tensor, context: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Return u after one step of Heun's method from time t to `end`, shape (rows, D)."""
        slope = (u - self.denoise(u, context, t)) / t
        ahead = u + (end - t) * slope
        return u + (end - t) * 0.5 * (slope + (ahead - self.denoise(ahead, context, end)) / end)

    def f(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return f(u_t, t; x), shape (rows, D), for times (rows, 1); context is times the gain."""
        late = t - self.epsilon
        kept, out = noisy / (late.square() + 1), late * (t.square() + 1).rsqrt()
        return torch.addcmul(kept, out, self.student(*self._inputs(noisy, context, t)))

    def jump(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        return self.f(noisy, self.gain * context, t.unsqueeze(1))

    @torch.no_grad()
    def _moved(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return the context times the gain, moved by random vectors."""
        training = self.summary.training
        context = self.summary.eval()(x)  # it no longer learns: no dropout
        self.summary.train(training)
        spread = self.jitter * context.std(0, correction=0)
        return self.gain * torch.addcmul(context, spread, torch.randn_like(context))
