"""The density of the targets of a conditional, along the probability flow of a denoiser.

With s = log t, v(s) the flow that starts at the given values at t = epsilon, and n targets,

    dv/ds = v - D(v, t)
    log p(v) = log p_T(v(log T)) + integral over s from log epsilon to log T of n - tr dD/dv

in which p at t = epsilon stands for p at t = 0. At t = T the targets are nearly normal, with the covariance
T^2 (I - J)^-1, J = dD/dv, so that with r = v - D, to first order in J,

    log p_T = -(r.r + r.J r) / (2 T^2) - tr J / 2 - n log(2 pi T^2) / 2
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.jacobian import LARGEST, directional_derivatives
from estimators.joint.states import TARGET
from estimators.joint.variables import Variables
from estimators.ode import midpoint

STEPS = 40  # of two passes each
PROBES = 8  # random directions that estimate a trace of more than 20 targets


class Denoiser(Protocol):
    """A denoiser D of all variables for noise between epsilon and T."""

    epsilon: float
    T: float
    summary: Variables

    def denoise(self, noisy: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Return D(v_t, t)."""


def log_density(joint: Denoiser, values: Tensor, context: Tensor) -> Tensor:
    """Return log p of the targets given the conditions, in standardised units, shape (rows,).

    The trace is exact up to 20 targets; beyond, it is estimated along 8 random directions that are the same in
    every call (Hutchinson).

    Arguments:
        joint: the denoiser.
        values: of all variables, those of the targets are used, shape (rows, N).
        context: conditions and targets, shape (rows, 2 N).
    """
    target = joint.summary.split(context)[1] == TARGET
    directions, count = _directions(target, values), target.sum(1)
    share = 1.0 if target.any(0).sum() <= LARGEST else 1 / PROBES

    def mean_and_trace(v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        def denoised(v: Tensor) -> Tensor:
            return torch.where(target, joint.denoise(v, context, t), 0.0)

        mean, columns = directional_derivatives(denoised, v, directions)
        return mean, share * (columns * directions.T).sum((1, 2))

    def slope(state: Tensor, s: Tensor) -> Tensor:
        # Of w = v / sqrt(1 + t^2), which hardly changes: a step of the solver is more exact.
        t, w = s.exp().reshape(1, 1), state[:, :-1]
        root = (1 + t.square()).sqrt()
        mean, trace = mean_and_trace(w * root, t)
        change = torch.where(target, w - mean / root, 0.0) - w * (t / root).square()
        return torch.cat([change, (count - trace).unsqueeze(1)], dim=1)

    low, high = math.log(joint.epsilon), math.log(joint.T)
    times = [low + k * (high - low) / STEPS for k in range(STEPS + 1)]
    start = torch.where(target, values, 0.0) / math.sqrt(1 + joint.epsilon**2)
    end = midpoint(slope, F.pad(start, (0, 1)), times)
    v, longest = end[:, :-1] * math.sqrt(1 + joint.T**2), values.new_tensor([[joint.T]])
    mean, trace = mean_and_trace(v, longest)
    rest = torch.where(target, v - mean, 0.0)
    moved = torch.where(target, joint.denoise(v + rest, context, longest) - mean, 0.0)  # J r
    square = (rest * (rest + moved)).sum(1) / joint.T**2
    return end[:, -1] - 0.5 * (square + trace + count * math.log(2 * math.pi * joint.T**2))


def _directions(target: Tensor, values: Tensor) -> Tensor:
    """Return the directions (k, N) along which derivatives give the trace."""
    columns = target.any(0).nonzero()[:, 0]
    size = values.shape[1]
    if len(columns) <= LARGEST:
        return torch.eye(size, dtype=values.dtype, device=values.device)[columns]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (PROBES, size), generator=generator)
    return (2 * signs - 1).to(values)
