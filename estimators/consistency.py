"""What consistency functions have in common, however they were trained.

A consistency function f maps a noisy parameter u_t = u + t z, z ~ N(0, I), at any time t in
[epsilon, T] to a draw from p(u | x), and leaves u at t = epsilon:

    f(u_t, t; x) = c_skip(t) u_t + c_out(t) F(c_in(t) u_t, x, t),   see `estimators.preconditioning`

One network pass gives a draw, f(T z, T); each further one adds noise again and repeats:

    u_{k+1} = f(u_k + sqrt(t_k^2 - epsilon^2) z_k, t_k),   T = t_0 > t_1 > ...

Far from all training parameters f extrapolates, and each further pass may move a draw farther out. Where a
pass would move a parameter out of its range in training, by more than a quarter of the range's width, the
parameter therefore keeps its value.

Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estimators.checks import within
from estimators.estimator import Estimator, Phase
from estimators.problem import InferenceProblem
from estimators.sampling_steps import SamplingSteps
from estimators.settings import EstimatorSettings

MARGIN = 0.25  # of a draw beyond the training range, in widths of the range


def karras_times(intervals: int, epsilon: float, T: float, rho: float) -> Tensor:
    """Return increasing times t_0 = epsilon ... t_N = T, shape (N + 1,), float64.

        t_i = (epsilon^(1/rho) + i/N (T^(1/rho) - epsilon^(1/rho)))^rho

    Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models
    (2022), arXiv 2206.00364.
    """
    low, high = epsilon ** (1 / rho), T ** (1 / rho)
    share = torch.arange(intervals + 1, dtype=torch.float64) / intervals
    t = (low + share * (high - low)) ** rho
    t[0], t[-1] = epsilon, T  # free of rounding: f is the identity at epsilon
    return t


def log_normal_probabilities(t: Tensor, mean: float, std: float) -> Tensor:
    """Return the shares of a normal log t in the intervals between times (N + 1,), shape (N,)."""
    cumulative = torch.erf((t.log() - mean) / (math.sqrt(2) * std))
    return cumulative.diff() / (cumulative[-1] - cumulative[0])


def times_apart(epsilon: float, T: float) -> None:
    """Raise ValueError unless the longest time is at least twice the shortest."""
    if not 2 * epsilon <= T:
        raise ValueError(f"T = {T!r}: valid is at least 2 epsilon = {2 * epsilon!r}")


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """Return d = sqrt(|a|^2 + c^2) - c of differences a (rows, D), shape (rows,)."""
    return (difference.square().sum(dim=1) + c**2).sqrt() - c


def decreasing_times(sampling_steps: Sequence[float], low: float, high: float) -> list[float]:
    """Return `sampling_steps` as a list; ValueError unless they decrease within [low, high]."""
    times = [float(t) for t in sampling_steps]
    falling = all(a > b for a, b in itertools.pairwise(times))
    if not times or not falling or times[0] > high or times[-1] < low:
        raise ValueError(f"sampling_steps = {times} are no decreasing times in [{low}, {high}]")
    return times


class ConsistencyEstimator(Estimator):
    """Base of estimators that draw by a consistency function.

    A subclass sets `epsilon`, `T`, `rho` and `sampling_steps`, and defines `consistency_function`.
    """

    takes_simplexes = True

    epsilon: float
    T: float
    rho: float
    sampling_steps: int
    low: Tensor  # (D,), where u is kept
    high: Tensor

    def __init__(
        self, problem: InferenceProblem, settings: EstimatorSettings | None = None, **given: Any
    ) -> None:
        super().__init__(problem, settings, **given)
        self.register_load_state_dict_pre_hook(_add_missing_limits)
        self.register_buffer("low", torch.full((problem.latent_size,), -torch.inf))
        self.register_buffer("high", torch.full((problem.latent_size,), torch.inf))

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        super().standardise(theta, x)
        self._limit(self.transform(theta))

    def _limit(self, u: Tensor) -> None:
        """Take the range in which draws are kept from latents of training rows."""
        low, high = u.aminmax(dim=0)
        self.low.copy_(low - MARGIN * (high - low))
        self.high.copy_(high + MARGIN * (high - low))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase, whose target is made of its own weights."""
        return (Phase("training", 1.0, list(self.parameters()), moving=True),)

    def consistency_function(
        self, noisy: Tensor, context: Tensor, t: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """Return f(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x, shape (rows, C).
            t: a time for each row, shape (rows, 1), or for all, shape (1, 1).
            masks: dropout masks of the network; None drops nothing.
        """
        raise NotImplementedError

    def sample_latent(
        self,
        context: Tensor,
        generator: torch.Generator,
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        def noise() -> Tensor:
            return self.noise(context, generator)

        return self.passes(noise, context, (self.low, self.high), sampling_steps)

    def passes(
        self,
        noise: Callable[[], Tensor],
        context: Tensor,
        limits: tuple[Tensor, Tensor],
        sampling_steps: SamplingSteps,
    ) -> Tensor:
        """Return draws by passes through the consistency function, one for each row of the context.

        Arguments:
            noise: returns fresh z, of the shape of the draws.
            context: shape (rows, C).
            limits: where the draws are kept, low and high, each (columns of a draw,).
            sampling_steps: number of passes, or their times.
        """
        first, *later = self.times(
            self.sampling_steps if sampling_steps is None else sampling_steps
        )
        low, high = limits
        u = self._consistency_at(first * noise(), context, first).clamp(low, high)
        for t in later:
            added = math.sqrt(t**2 - self.epsilon**2)
            moved = self._consistency_at(u + added * noise(), context, t)
            u = torch.where((moved >= low) & (moved <= high), moved, u)
        return u

    def transport(self, z: Tensor, context: Tensor, sampling_steps: SamplingSteps) -> Tensor:
        times = self.times(self.sampling_steps if sampling_steps is None else sampling_steps)
        if len(times) > 1:
            raise NotImplementedError(
                f"{len(times)} passes add noise in between and leave no density: take a single pass "
                "(sampling_steps=1), or fit a density to the draws with estimators.distil()"
            )
        return self._consistency_at(times[0] * z, context, times[0])

    def _consistency_at(self, noisy: Tensor, context: Tensor, t: float) -> Tensor:
        return self.consistency_function(noisy, context, torch.tensor([[t]], device=noisy.device))

    def grid(self, intervals: int) -> Tensor:
        """Return the increasing times t_0 = epsilon ... t_N = T, shape (N + 1,), float64."""
        return karras_times(intervals, self.epsilon, self.T, self.rho)

    def times(self, sampling_steps: int | Sequence[float]) -> list[float]:
        """Return the decreasing times at which a draw passes through the network.

        Arguments:
            sampling_steps: the number of passes, or the times themselves.

        Raises:
            ValueError: no pass, or times that leave [epsilon, T] or do not decrease.
        """
        if not isinstance(sampling_steps, int):
            return decreasing_times(sampling_steps, self.epsilon, self.T)
        within("sampling_steps", sampling_steps, 1, integer=True)
        return self.grid(sampling_steps).flip(0)[:-1].tolist()


def _add_missing_limits(
    module: nn.Module, state: dict[str, Any], prefix: str, *others: Any
) -> None:
    """Give weights from before draws were limited their own limits: none."""
    for name in ("low", "high"):
        state.setdefault(prefix + name, getattr(module, name))
