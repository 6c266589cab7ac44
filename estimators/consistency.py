"""What consistency functions have in common, however they were trained.

A consistency function f maps a noisy parameter u_t = u + t z, z ~ N(0, I), at any time t in
[epsilon, T] to a draw from p(u | x), and leaves u at t = epsilon:

    f(u_t, t; x) = c_skip(t) u_t + c_out(t) F(c_in(t) u_t, x, t)
    c_skip = s^2 / ((t - epsilon)^2 + s^2),   c_out = s (t - epsilon) / sqrt(s^2 + t^2)
    c_in   = 1 / sqrt(s^2 + t^2),             s the spread of u

One network pass gives a draw, f(T z, T); each further one adds noise again and repeats:

    u_{k+1} = f(u_k + sqrt(t_k^2 - epsilon^2) z_k, t_k),   T = t_0 > t_1 > ...

Far from all training parameters f extrapolates, and a draw that is a little too far out may be thrown further
by each pass. Where a pass would take a parameter out of the range that it has in training, by more than a quarter
of the width, it therefore keeps the value it had.

Song, Dhariwal, Chen, Sutskever: Consistency Models (2023), arXiv 2303.01469.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from estimators.estimator import Estimator, Problem, within

BEYOND = 0.25  # widths of the training range


def karras(intervals: int, epsilon: float, T: float, rho: float) -> Tensor:
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


def log_normal_shares(t: Tensor, mean: float, std: float) -> Tensor:
    """Return the shares of a normal log t in the intervals between times (N + 1,), shape (N,)."""
    cumulative = torch.erf((t.log() - mean) / (math.sqrt(2) * std))
    return cumulative.diff() / (cumulative[-1] - cumulative[0])


def decreasing(steps: Sequence[float], low: float, high: float) -> list[float]:
    """Return `steps` as a list; ValueError unless they decrease within [low, high]."""
    times = [float(t) for t in steps]
    falling = all(a > b for a, b in itertools.pairwise(times))
    if not times or not falling or times[0] > high or times[-1] < low:
        raise ValueError(f"steps = {times} are no decreasing times in [{low}, {high}]")
    return times


class ConsistencyEstimator(Estimator):
    """Base of estimators that draw by a consistency function.

    A subclass sets `epsilon`, `T`, `rho` and `steps`, and defines `jump`.
    """

    epsilon: float
    T: float
    rho: float
    steps: int
    low: Tensor  # (D,), where u is kept
    high: Tensor

    def __init__(self, problem: Problem, **settings: Any) -> None:
        super().__init__(problem, **settings)
        self.register_buffer("low", torch.full((problem.size,), -torch.inf))
        self.register_buffer("high", torch.full((problem.size,), torch.inf))

    def standardise(self, theta: Tensor, x: Mapping[str, Tensor]) -> None:
        super().standardise(theta, x)
        low, high = self.transform(theta).aminmax(dim=0)
        self.low.copy_(low - BEYOND * (high - low))
        self.high.copy_(high + BEYOND * (high - low))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("low", "high"):  # artefacts from before these were kept have no limits
            state.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state, prefix, *others)

    def jump(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return f(u_t, t; x), shape (rows, D).

        Arguments:
            noisy: u_t, shape (rows, D).
            context: summary of x, shape (rows, C).
            t: one time for all rows, shape (1,).
        """
        raise NotImplementedError

    def draw(
        self,
        context: Tensor,
        generator: torch.Generator,
        steps: int | Sequence[float] | None,
    ) -> Tensor:
        first, *later = self.times(self.steps if steps is None else steps)
        u = self._jump(first * self.noise(context, generator), context, first)
        u = u.clamp(self.low, self.high)
        for t in later:
            added = math.sqrt(t**2 - self.epsilon**2)
            moved = self._jump(u + added * self.noise(context, generator), context, t)
            inside = (moved >= self.low) & (moved <= self.high)
            u = torch.where(inside, moved, u)
        return u

    def push(self, z: Tensor, context: Tensor, steps: int | Sequence[float] | None) -> Tensor:
        times = self.times(self.steps if steps is None else steps)
        if len(times) > 1:
            raise NotImplementedError(
                f"{len(times)} passes add noise in between and leave no density: take a single pass "
                "(steps=1), or fit a density to the draws with estimators.distil()"
            )
        return self._jump(times[0] * z, context, times[0])

    def _jump(self, noisy: Tensor, context: Tensor, t: float) -> Tensor:
        return self.jump(noisy, context, torch.tensor([t], device=noisy.device))

    def grid(self, intervals: int) -> Tensor:
        """Return the increasing times t_0 = epsilon ... t_N = T, shape (N + 1,), float64."""
        return karras(intervals, self.epsilon, self.T, self.rho)

    def times(self, steps: int | Sequence[float]) -> list[float]:
        """Return the decreasing times at which a draw passes through the network.

        Arguments:
            steps: the number of passes, or the times themselves.

        Raises:
            ValueError: no pass, or times that leave [epsilon, T] or do not decrease.
        """
        if not isinstance(steps, int):
            return decreasing(steps, self.epsilon, self.T)
        within("steps", steps, 1, integer=True)
        return self.grid(steps).flip(0)[:-1].tolist()
