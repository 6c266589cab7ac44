"""Flow matching posterior estimation.

A velocity field v carries noise z ~ N(0, I) at t = 0 to a draw from p(u | x) at t = 1. It is learned
by regression on straight paths between noise and parameters:

    u_t = (1 - (1 - s) t) z + t u,   loss = E |v(u_t, t; x) - (u - (1 - s) z)|^2,   s = sigma_min

Draws solve du/dt = v(u, t; x). Their density follows from the trace of dv/du along the path back:

    log p(u | x) = log N(u_0; 0, I) - integral over t from 0 to 1 of tr dv/du

Lipman, Chen, Ben-Hamu, Nickel, Le: Flow Matching for Generative Modeling (2023), arXiv 2210.02747;
Dax, Wildberger, Buchholz, Green, Macke, Schoelkopf: Flow Matching for Scalable Simulation-Based
Inference (2023), arXiv 2305.17161.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from estimators.estimator import Estimator, Problem, within
from estimators.jacobian import LARGEST, along, jacobian, log_normal
from estimators.network import free_form_network
from estimators.network.time import UnitTimeFeatures
from estimators.ode import PASSES, SOLVERS, adaptive
from estimators.registry import suggest

PROBES = 8  # random directions that estimate a trace where D is too large for the exact one
ADAPTIVE = "adaptive"


def uniform(share: Tensor) -> Tensor:
    """Every time is equally likely."""
    return share


def power(share: Tensor, exponent: float = 1.0) -> Tensor:
    """Density proportional to t^exponent: more of the late times for a positive exponent."""
    within("exponent", exponent, -0.99)
    return share ** (1 / (1 + exponent))


def logit_normal(share: Tensor, mean: float = 2.0, std: float = 2.0) -> Tensor:
    """A logit of t that is normal: more of the middle, for a positive mean of the late times."""
    within("std", std, 1e-6)
    edge = torch.finfo(share.dtype).eps
    return torch.sigmoid(mean + std * torch.special.ndtri(share.clamp(edge, 1 - edge)))


# Each maps uniform numbers in [0, 1) to times.
TIMES: dict[str, Callable[..., Tensor]] = {
    "logit_normal": logit_normal,
    "power": power,
    "uniform": uniform,
}


class FMPE(Estimator):
    """Posterior estimator by flow matching with a free-form network.

    Arguments:
        problem: names, bounds and shapes.
        network: name of v's network, see `estimators.network`.
        width, depth, dropout: its size and dropout; None is the network's own default.
        network_arguments: its other settings.
        features: frequencies of t that the network sees.
        gain: factor on the inputs u and x of the network: the spatial frequencies it starts with.
        sigma_min: s, the spread of a path's end.
        times: distribution of t in training: logit_normal (mean, std), power (exponent), uniform. The
            default has many late times, at which narrow posteriors are decided.
        times_arguments: its settings.
        solver: euler (one pass for a step), midpoint (two) or adaptive (Dormand-Prince).
        steps: network passes for a draw; even for midpoint, without effect for adaptive.
        tolerance: error of a step of the adaptive solver, of draws and of densities.
        bounds: treatment of bounded parameters; a bijection where the density is wanted.
        summary, summary_arguments: the summary network, see `estimators.summary`.

    Raises:
        LookupError, ValueError, TypeError: an argument that is not valid.
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
        features: int = 8,
        gain: float = 6.0,
        sigma_min: float = 0.0,
        times: str = "logit_normal",
        times_arguments: Mapping[str, float] | None = None,
        solver: str = "euler",
        steps: int = 100,
        tolerance: float = 1e-5,
        bounds: str = "probit",
        summary: str = "identity",
        summary_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        within("features", features, 0, integer=True)
        within("gain", gain, 1e-6)
        within("sigma_min", sigma_min, 0, 1)
        within("tolerance", tolerance, 1e-7, 1)
        super().__init__(
            problem, bounds=bounds, summary=summary, summary_arguments=summary_arguments
        )
        if times not in TIMES:
            raise LookupError(f"unknown times {times!r}{suggest(times, sorted(TIMES))}")
        if solver not in (*SOLVERS, ADAPTIVE):
            valid = suggest(solver, sorted((*SOLVERS, ADAPTIVE)))
            raise LookupError(f"unknown solver {solver!r}{valid}")
        self.gain, self.sigma_min, self.tolerance = gain, sigma_min, tolerance
        self.solver = solver
        self.steps = None if solver == ADAPTIVE else steps
        if self.steps is not None:
            self.grid(self.steps)
        self.time = partial(TIMES[times], **(times_arguments or {}))
        self.time(torch.tensor(0.5))  # a bad argument shows here
        self.features = UnitTimeFeatures(features)
        self.network = free_form_network(
            network,
            problem.size,
            self.summary.width,
            self.features.width,
            {"width": width, "depth": depth, "dropout": dropout, **(network_arguments or {})},
        )

    @property
    def floats(self) -> int:
        return self.network.floats

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u, context = self.transform(theta), self.gain * self.summary(x)
        z, t = torch.randn_like(u), self.time(torch.rand(len(u), 1, device=u.device))
        noisy = (1 - (1 - self.sigma_min) * t) * z + t * u
        velocity = self.velocity(noisy, context, t[:, 0], self.network.masks(len(u), u.device))
        return (velocity - (u - (1 - self.sigma_min) * z)).square().mean()

    def velocity(
        self, u: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return v(u, t; x), shape (rows, D).

        Arguments:
            u: shape (rows, D).
            context: summary of x times the gain, shape (rows, C).
            t: times, shape (rows,) or ().
            masks: dropout masks of the network.
        """
        time = self.features(t).expand(len(u), -1)
        return self.network(self.gain * u, context, time, masks)

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        return self.push(self.noise(context, generator), context, steps)

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        context = self.gain * context

        def velocity(u: Tensor, t: Tensor) -> Tensor:
            return self.velocity(u, context, t)

        if self.solver == ADAPTIVE:
            return adaptive(velocity, z, (0.0, 1.0), self.tolerance)
        grid = self.grid(self.steps if steps is None else steps)
        return SOLVERS[self.solver](velocity, z, grid)

    def grid(self, steps: int | Sequence[float] | None) -> list[float]:
        """Return the increasing times 0 ... 1 between which the solver steps.

        Arguments:
            steps: the number of passes, or the times at which steps start.

        Raises:
            ValueError: no pass, an odd number for midpoint, or times that are not 0 <= ... < 1.
        """
        each = PASSES[self.solver]
        if isinstance(steps, int):
            within("steps", steps, 1, integer=True)
            if steps % each:
                raise ValueError(
                    f"steps = {steps} passes: solver {self.solver!r} takes {each} for each step; "
                    f"valid is a multiple of {each}"
                )
            count = steps // each
            return [i / count for i in range(count + 1)]
        times = [float(t) for t in steps or ()]
        if not times or times[0] != 0 or any(a >= b for a, b in pairwise([*times, 1.0])):
            raise ValueError(f"steps = {times} are no increasing times from 0 to below 1")
        return [*times, 1.0]

    def density(self, u: Tensor, context: Tensor) -> Tensor:
        """Return log p(u | context) by the adaptive solver, shape (rows,).

        The trace is exact up to 20 parameters; beyond, it is estimated along 8 random directions
        that are the same in every call (Hutchinson).
        """
        z, trace = self._with_trace(u, context, (1.0, 0.0))
        return log_normal(z) + trace

    def draw_with_density(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> tuple[Tensor, Tensor]:
        if self.solver != ADAPTIVE:
            return super().draw_with_density(context, generator, steps)
        z = self.noise(context, generator)
        u, trace = self._with_trace(z, context, (0.0, 1.0))
        return u, log_normal(z) - trace

    def _with_trace(
        self, u: Tensor, context: Tensor, span: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Solve from the first to the last time; return u and the integral of the trace."""
        context = self.gain * context
        probes = None if self.problem.size <= LARGEST else self._probes(u)

        def slope(state: Tensor, t: Tensor) -> Tensor:
            def velocity(v: Tensor) -> Tensor:
                return self.velocity(v, context, t)

            at = state[:, :-1]
            if probes is None:
                value, derivative = jacobian(velocity, at)
                trace = derivative.diagonal(dim1=-2, dim2=-1).sum(-1)
            else:
                value, columns = along(velocity, at, probes)
                trace = (columns * probes.T).sum(1).mean(-1)
            return torch.cat([value, trace.unsqueeze(-1)], dim=-1)

        end = adaptive(slope, torch.nn.functional.pad(u, (0, 1)), span, self.tolerance)
        return end[:, :-1], end[:, -1]

    def _probes(self, u: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, (PROBES, u.shape[-1]), generator=generator)
        return (2 * signs - 1).to(u)
