"""Consistency distillation: the accuracy of a diffusion posterior in a few network passes.

Training has two phases. First the denoisers D_m of `estimators.npse` learn the posterior. Then their
weights rest, and a consistency function f (see `estimators.consistency`) learns where the probability
flow of their mean leads. The flow is solved from u_T = u + T z, and at every point of its path f is to
give its end:

    u_T -> u_{t_2} -> ... -> u_{t_N} -> u_epsilon   by DPM-Solver++(2M), T > t_k > epsilon
    loss = E [ sqrt(|f(u_{t_k}, t_k; x) - u_epsilon|^2 + c^2) - c ],   c = huber sqrt(D),   k uniform

A path costs N passes of the denoisers, gives N examples, and is kept for a while. Where neighbours on a
path are only asked to agree, as consistency models usually are, each step of the flow adds its error to
those below; here the ends are known. Consistency training has in place of the path the single theta that
was simulated, and its noise is what limits it at small budgets; a denoiser has averaged over it.
Besides, the flow can be asked at any x: the summary of a simulated x is moved by a random vector of
`jitter` standard deviations, so that f is exact between simulations too.

Luhman, Luhman: Knowledge Distillation in Iterative Generative Models (2021), arXiv 2101.02388. Song,
Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469. Schmitt, Pratz, Koethe,
Buerkner, Radev: Consistency Models for Scalable and Fast Simulation-Based Inference (2023), arXiv
2312.05440.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.consistency import ConsistencyEstimator
from estimators.estimator import Phase, Problem, Replay, within
from estimators.npse import NPSE

NUMBERS = 4_000_000  # of all kept points


class CMPEDistilled(ConsistencyEstimator, NPSE):
    """Posterior estimator by consistency distillation of averaged denoisers.

    Arguments:
        problem: names, bounds and shapes.
        members, network, width, depth, dropout, network_arguments, features, gain, epsilon, T, p_mean,
            p_std: the denoisers', see `estimators.npse.NPSE`; f has the same network, without dropout.
        student_depth: the depth of f, where it is to differ; None is the denoisers'.
        teaching: share of the steps that train the denoisers.
        slower: factor on the learning rate while distilling.
        jitter: spread of the random vectors added to the summary of x while distilling, in standard
            deviations of the summary.
        points: number N of points of a path.
        kept: paths that are kept, fewer where D is large.
        huber: c / sqrt(D).
        rho: exponent of the Karras grid on which f draws.
        steps: network passes for a draw.
        bounds: treatment of bounded parameters, see `estimators.transform`.
        summary, summary_arguments: the summary network, see `estimators.summary`; it learns with the
            denoisers.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
    """

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
        student_depth: int | None = None,
        teaching: float = 0.7,
        slower: float = 0.33,
        jitter: float = 0.05,
        points: int = 20,
        kept: int = 2048,
        huber: float = 0.01,
        rho: float = 7.0,
        steps: int = 10,
        bounds: str = "reflect",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if student_depth is not None:
            within("student_depth", student_depth, 0, integer=True)
        within("teaching", teaching, 0.01, 0.99)
        within("slower", slower, 1e-6)
        within("jitter", jitter, 0)
        within("points", points, 3, integer=True)
        within("kept", kept, 1, integer=True)
        within("huber", huber, 1e-9)
        within("rho", rho, 1)
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
        self.points = points
        self.kept = min(kept, max(1, NUMBERS // (points * problem.size)))
        self.c = huber * math.sqrt(problem.size)
        given = {"width": width, "depth": depth, **(network_arguments or {})}
        if student_depth is not None:
            given["depth"] = student_depth
        self.student = self._network(network, given)

    @property
    def floats(self) -> int:
        return max(super().floats, self.student.floats)

    @property
    def phases(self) -> tuple[Phase, ...]:
        teachers = [*self.denoisers.parameters(), *self.summary.parameters()]
        student = list(self.student.parameters())
        replay = Replay(every=self.points, keep=self.kept)
        return (
            Phase("denoisers", self.teaching, teachers, best=True),
            Phase("distillation", 1 - self.teaching, student, self.slower, replay=replay),
        )

    def begin(self, phase: int) -> None:
        if phase == 1:  # f starts as a denoiser; layers that only f has keep their first weights
            start, taught = self.student.state_dict(), self.denoisers[0].state_dict()
            fits = {k: v for k, v in taught.items() if k in start and v.shape == start[k].shape}
            self.student.load_state_dict({**start, **fits})

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        if progress < self.teaching - 1e-9:
            return NPSE.loss(self, theta, x, progress)
        return self.replayed(self.examples(theta, x))

    @torch.no_grad()
    def examples(self, theta: Tensor, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return paths of the flow, one for each row, on geometric grids that are moved at random.

        Returns:
            u (rows, N, D), t (rows, N), end (rows, D), context (rows, C).
        """
        u, context = self.transform(theta), self._moved(x)
        place = torch.arange(self.points + 1, device=u.device).repeat(len(u), 1)
        place = place - torch.rand(len(u), 1, device=u.device)
        place[:, 0], place[:, -1] = 0.0, self.points - 1.0  # from T to epsilon
        t = self.T * (self.epsilon / self.T) ** (place / (self.points - 1))
        *path, end = self.path(u + self.T * torch.randn_like(u), context, t)
        return {"u": torch.stack(path, 1), "t": t[:, :-1], "end": end, "context": context}

    def replayed(self, examples: Mapping[str, Tensor]) -> Tensor:
        u, t, end = examples["u"], examples["t"], examples["end"]
        rows = torch.arange(len(u), device=u.device)
        point = torch.randint(u.shape[1], (len(u),), device=u.device)
        gap = self.f(u[rows, point], examples["context"], t[rows, point].unsqueeze(1)) - end
        return ((gap.square().sum(1) + self.c**2).sqrt() - self.c).mean()

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
