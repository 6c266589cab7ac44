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

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from estimators.checks import suggest, within
from estimators.estimator import Estimator
from estimators.jacobian import LARGEST, directional_derivatives, jacobian, log_normal
from estimators.network import free_form_network
from estimators.network.inputs import NetworkInputs
from estimators.network.time import UnitTimeFeatures
from estimators.ode import PASSES, SOLVERS, adaptive
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import (
    EstimatorSettings,
    NetworkSpec,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

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


class FMPESettings(EstimatorSettings, NetworkSpec):
    """Settings of `FMPE`.

    Arguments:
        features: frequencies of t that the network sees.
        input_scale: factor on the inputs u and x of the network: the spatial frequencies it starts with.
        sigma_min: s, the standard deviation at a path's end.
        times: distribution of t in training: logit_normal (mean, std), power (exponent), uniform. The
            default has many late times, which matter most for narrow posteriors.
        times_arguments: its settings.
        solver: euler (one pass for a step), midpoint (two) or adaptive (Dormand-Prince).
        sampling_steps: network passes for a draw; even for midpoint, without effect for adaptive.
        tolerance: error of a step of the adaptive solver, of draws and of densities.
        bounds: treatment of bounded parameters; a bijection where the density is wanted.
    """

    features: NonNegativeInt = 8
    input_scale: PositiveFloat = 6.0
    sigma_min: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    times: str = "logit_normal"
    times_arguments: dict[str, float] | None = None
    solver: str = "euler"
    sampling_steps: PositiveInt = 100
    tolerance: Annotated[float, Field(strict=True, ge=1e-7, le=1)] = 1e-5
    bounds: str = "probit"


class FMPE(Estimator):
    """Posterior estimator by flow matching with a free-form network.

    Arguments:
        problem: names, bounds and shapes.
        settings: see `FMPESettings`.

    Raises:
        LookupError, ValueError, TypeError: a setting that is not valid.
    """

    takes_simplexes = True

    learning_rate = 3e-3
    settings_type = FMPESettings

    def __init__(self, problem: InferenceProblem, settings: FMPESettings) -> None:
        super().__init__(problem, settings)
        times, solver = settings.times, settings.solver
        if times not in TIMES:
            raise LookupError(f"unknown times {times!r}{suggest(times, TIMES)}")
        if solver not in (*SOLVERS, ADAPTIVE):
            raise LookupError(f"unknown solver {solver!r}{suggest(solver, (*SOLVERS, ADAPTIVE))}")
        self.input_scale, self.solver = settings.input_scale, solver
        self.sigma_min, self.tolerance = settings.sigma_min, settings.tolerance
        self.sampling_steps = None if solver == ADAPTIVE else settings.sampling_steps
        if self.sampling_steps is not None:
            self.grid(self.sampling_steps)
        self.time = partial(TIMES[times], **(settings.times_arguments or {}))
        self.time(torch.tensor(0.5))  # a bad argument shows here
        self.inputs = NetworkInputs(UnitTimeFeatures(settings.features), settings.input_scale)
        sizes = problem.latent_size, self.summary.width, self.inputs.features.width
        self.network = free_form_network(
            settings.network, *sizes, settings.network_settings, problem.shape
        )

    @property
    def row_memory(self) -> int:
        return self.network.row_memory

    def loss(self, theta: Tensor, x: Mapping[str, Tensor], progress: float) -> Tensor:
        u = self.transform(theta)
        context = self.context(x, len(u))
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
            context: summary of x, shape (rows, C).
            t: times, shape (rows,) or ().
            masks: dropout masks of the network.
        """
        return self.network(*self.inputs(u, context, t), masks)

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        return self.transport(self.noise(context, generator), context, sampling_steps)

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:

        def velocity(u: Tensor, t: Tensor) -> Tensor:
            return self.velocity(u, context, t)

        if self.solver == ADAPTIVE:
            return adaptive(velocity, z, (0.0, 1.0), self.tolerance)
        grid = self.grid(self.sampling_steps if sampling_steps is None else sampling_steps)
        return SOLVERS[self.solver](velocity, z, grid)

    def grid(self, sampling_steps: SamplingSteps) -> list[float]:
        """Return the increasing times 0 ... 1 between which the solver steps.

        Arguments:
            sampling_steps: the number of passes, or the times at which steps start.

        Raises:
            ValueError: no pass, an odd number for midpoint, or times that are not 0 <= ... < 1.
        """
        each = PASSES[self.solver]
        if isinstance(sampling_steps, int):
            within("sampling_steps", sampling_steps, 1, integer=True)
            if sampling_steps % each:
                raise ValueError(
                    f"sampling_steps = {sampling_steps} passes: solver {self.solver!r} takes {each} for "
                    f"each step; valid is a multiple of {each}"
                )
            count = sampling_steps // each
            return [i / count for i in range(count + 1)]
        times = [float(t) for t in sampling_steps or ()]
        if not times or times[0] != 0 or any(a >= b for a, b in pairwise([*times, 1.0])):
            raise ValueError(f"sampling_steps = {times} are no increasing times from 0 to below 1")
        return [*times, 1.0]

    def log_prob_latent(self, u: Tensor, context: Tensor) -> Tensor:
        """Return log p(u | context) by the adaptive solver, shape (rows,).

        The trace is exact up to 20 parameters; beyond, it is estimated along 8 random directions
        that are the same in every call (Hutchinson).
        """
        z, trace = self._with_trace(u, context, (1.0, 0.0))
        return log_normal(z) + trace

    def sample_latent_with_log_prob(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> tuple[Tensor, Tensor]:
        if self.solver != ADAPTIVE:
            return super().sample_latent_with_log_prob(context, generator, sampling_steps)
        z = self.noise(context, generator)
        u, trace = self._with_trace(z, context, (0.0, 1.0))
        return u, log_normal(z) - trace

    def _with_trace(
        self, u: Tensor, context: Tensor, span: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Solve from the first to the last time; return u and the integral of the trace."""
        probes = None if self.problem.latent_size <= LARGEST else self._probes(u)

        def slope(state: Tensor, t: Tensor) -> Tensor:
            def velocity(v: Tensor) -> Tensor:
                return self.velocity(v, context, t)

            at = state[:, :-1]
            if probes is None:
                value, derivative = jacobian(velocity, at)
                trace = derivative.diagonal(dim1=-2, dim2=-1).sum(-1)
            else:
                value, columns = directional_derivatives(velocity, at, probes)
                trace = (columns * probes.T).sum(1).mean(-1)
            return torch.cat([value, trace.unsqueeze(-1)], dim=-1)

        end = adaptive(slope, torch.nn.functional.pad(u, (0, 1)), span, self.tolerance)
        return end[:, :-1], end[:, -1]

    def _probes(self, u: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, (PROBES, u.shape[-1]), generator=generator)
        return (2 * signs - 1).to(u)
