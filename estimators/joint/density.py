"""The density of the targets of a conditional, along the probability flow of a denoiser.

With s = log t, v(s) the flow that starts at the given values at t = epsilon, and n targets,

    dv/ds = v - D(v, t)
    log p(v) = log N(v(log T); D, T^2 I) + integral over s from log epsilon to log T of n - tr dD/dv

in which p at t = epsilon stands for p at t = 0, and at t = T all of the targets' spread is that of the noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from estimators.jacobian import LARGEST, directional_derivatives
from estimators.joint.states import TARGET
from estimators.ode import midpoint

if TYPE_CHECKING:
    from estimators.joint.estimator import Joint

STEPS = 40  # of two passes each
PROBES = 8  # random directions that estimate a trace of more than 20 targets


def log_density(joint: Joint, values: Tensor, context: Tensor) -> Tensor:
    """Return log p of the targets given the conditions, in standardised units, shape (rows,).

    The trace is exact up to 20 targets; beyond, it is estimated along 8 random directions that are the same in
    every call (Hutchinson).

    Arguments:
        joint: the denoiser.
        values: of all variables, those of the targets are used, shape (rows, N).
        context: conditions and targets, shape (rows, 2 N).
    """
    target = joint.summary.split(context)[1] == TARGET
    probes = _directions(target, values)
    count = target.sum(1)

    def slope(state: Tensor, s: Tensor) -> Tensor:
        t = s.exp().reshape(1, 1)

        def denoised(v: Tensor) -> Tensor:
            return torch.where(target, joint.denoise(v, context, t), 0.0)

        v = state[:, :-1]
        mean, columns = directional_derivatives(denoised, v, probes)
        trace = (columns * probes.T).sum((1, 2)) / (1 if _exact(probes) else PROBES)
        return torch.cat([torch.where(target, v - mean, 0.0), (count - trace).unsqueeze(1)], dim=1)

    low, high = math.log(joint.epsilon), math.log(joint.T)
    times = [low + k * (high - low) / STEPS for k in range(STEPS + 1)]
    start = torch.where(target, values, 0.0)
    end = midpoint(slope, F.pad(start, (0, 1)), times)
    v, integral = end[:, :-1], end[:, -1]
    mean = joint.denoise(v, context, v.new_tensor([[joint.T]]))
    square = torch.where(target, (v - mean) / joint.T, 0.0).square().sum(1)
    return integral - 0.5 * square - count * (math.log(joint.T) + 0.5 * math.log(2 * math.pi))


def _directions(target: Tensor, values: Tensor) -> Tensor:
    """Return the directions (k, N) along which derivatives give the trace."""
    columns = target.any(0).nonzero()[:, 0]
    size = values.shape[1]
    if len(columns) <= LARGEST:
        return torch.eye(size, dtype=values.dtype, device=values.device)[columns]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (PROBES, size), generator=generator)
    return (2 * signs - 1).to(values)


def _exact(directions: Tensor) -> bool:
    return bool((directions >= 0).all())
