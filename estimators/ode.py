"""Solvers of du/dt = v(u, t): fixed numbers of passes, and an adaptive one.

Each takes the velocity v, u at the first time, and returns u at the last; rows are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import zuko
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # u (rows, D) and t () -> (rows, D)


def euler(velocity: Velocity, u: Tensor, times: Sequence[float]) -> Tensor:
    """One pass for each step: u + h v(u, t)."""
    for start, stop in pairwise(times):
        u = u + (stop - start) * velocity(u, u.new_tensor(start))
    return u


def midpoint(velocity: Velocity, u: Tensor, times: Sequence[float]) -> Tensor:
    """Two passes for each step: u + h v(u + h/2 v(u, t), t + h/2)."""
    for start, stop in pairwise(times):
        half = u + 0.5 * (stop - start) * velocity(u, u.new_tensor(start))
        u = u + (stop - start) * velocity(half, u.new_tensor(0.5 * (start + stop)))
    return u


def adaptive(velocity: Velocity, u: Tensor, span: tuple[float, float], tolerance: float) -> Tensor:
    """The Dormand-Prince method, with steps chosen for the worst row.

    Arguments:
        tolerance: relative and absolute error of a step.

    Raises:
        FloatingPointError: the velocity is not finite.
    """

    def derivative(t: Tensor, u: Tensor) -> Tensor:
        slope = velocity(u, t)
        if not slope.isfinite().all():  # the step control would never end
            raise FloatingPointError(f"the velocity at t = {float(t):g} is not finite")
        return slope

    if not len(u):
        return u
    with torch.no_grad():
        end: Tensor = zuko.utils.odeint(derivative, u, *span, atol=tolerance, rtol=tolerance)
    return end


SOLVERS: dict[str, Callable[[Velocity, Tensor, Sequence[float]], Tensor]] = {
    "euler": euler,
    "midpoint": midpoint,
}
PASSES = {"euler": 1, "midpoint": 2}  # for one step
