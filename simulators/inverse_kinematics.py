"""Inverse kinematics: the end point of an arm of three segments on a sliding base.

    theta ~ N(0, diag(0.25, 0.5, 0.5, 0.5)^2),    l = (0.5, 0.5, 1)
    a_1 = theta_2,  a_2 = theta_2 + theta_3,  a_3 = theta_2 + theta_3 + theta_4
    x_1 = theta_1 + sum_k l_k sin a_k,    x_2 = sum_k l_k cos a_k

There is no noise, so the reference is the ABC posterior p(theta | |x(theta) - x| < eps). The height
x_2 depends on the joint angles alone and x_1 is linear in theta_1, so theta_1 can be integrated out.
With the reach r = sum_k l_k sin a_k and the half chord h = sqrt(eps^2 - (x_2(theta) - x_2)^2),

    p(angles | accepted) ~ p(angles) 1[h^2 > 0] P(|theta_1 - (x_1 - r)| < h)

This is sampled by rejection from an envelope that is constant on the cells of a grid over the angles:
in a cell of half width d, the prior and P are bounded by their largest values, and height and reach
by their gradients at the centre and the second-order bound of Taylor's theorem. Given the angles,
theta_1 is normal, truncated to the chord. All draws are independent and exact.

Definition: Benchmarking Invertible Architectures on Inverse Problems (2021, arXiv 2101.10763), with
eps of Consistency Models for Scalable and Fast Simulation-Based Inference (2023, arXiv 2312.05440).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array, Normal
from simulators.factory import simulator
from simulators.rejection import rejection
from simulators.simulator import Observation

SEGMENTS = np.array([0.5, 0.5, 1.0])
BASE_STD, ANGLE_STD = 0.25, 0.5
EPSILON = 0.002
EXTENT = 8 * ANGLE_STD  # of the grid; 4e-15 of the prior lies beyond
CELLS = 64  # per angle


def _end_point(angles: Array) -> tuple[Array, Array]:
    """Return reach and height for joint angles of shape (3, ...)."""
    absolute = np.cumsum(angles, axis=0)
    return (
        np.tensordot(SEGMENTS, np.sin(absolute), axes=1),
        np.tensordot(SEGMENTS, np.cos(absolute), axes=1),
    )


class _Grid(NamedTuple):
    """Cells of the joint angles: m centres with what bounds a cell."""

    centre: Array  # (3, m)
    reach: Array  # (m,), at the centre, as `height`
    height: Array
    reach_range: Array  # (m,), largest change within the cell, as `height_range`
    height_range: Array
    prior: Array  # (m,), largest exp(-|angles|^2 / 2 sd^2) in the cell


@functools.cache
def _grid() -> _Grid:
    half = EXTENT / CELLS
    axis = np.linspace(-EXTENT + half, EXTENT - half, CELLS)
    centre = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    reach, height = _end_point(centre)
    absolute = np.cumsum(centre, axis=0)
    weights = SEGMENTS[:, None]
    # dx/d theta_j gathers the segments behind joint j
    by_reach = np.cumsum((weights * np.cos(absolute))[::-1], axis=0)
    by_height = np.cumsum((weights * np.sin(absolute))[::-1], axis=0)
    curvature = 0.5 * half**2 * float(SEGMENTS @ np.array([1, 4, 9]))  # |a_k| changes by <= k d
    nearest = np.maximum(np.abs(centre) - half, 0)
    return _Grid(
        centre,
        reach,
        height,
        half * np.abs(by_reach).sum(axis=0) + curvature,
        half * np.abs(by_height).sum(axis=0) + curvature,
        np.exp(-0.5 * np.sum(nearest**2, axis=0) / ANGLE_STD**2),
    )


def _chord(centre: Array, half: Array | float) -> tuple[Array, Array]:
    """Return Phi at the outer end and the mass of a chord of theta_1 mirrored to the lower tail."""
    from scipy.special import ndtr

    outer = ndtr((-np.abs(centre) - half) / BASE_STD)
    return outer, ndtr((-np.abs(centre) + half) / BASE_STD) - outer


def abc(x: Observation, n: int, rng: Generator, epsilon: float = EPSILON) -> Array:
    """Draw from the ABC posterior within Euclidean distance `epsilon` of x, shape (n, 4).

    Raises ValueError where x is (nearly) out of reach.
    """
    from scipy.special import ndtri

    across, up = (float(value) for value in x["x"])
    grid = _grid()
    cells = np.flatnonzero(np.abs(grid.height - up) < grid.height_range + epsilon)
    shift = np.maximum(np.abs(across - grid.reach[cells]) - grid.reach_range[cells], 0)
    bound = grid.prior[cells] * _chord(shift, epsilon)[1]
    cumulative = np.cumsum(bound)
    subject = f"inverse_kinematics: x = {x['x'].tolist()}"
    if not bound.any():
        raise ValueError(f"{subject} is out of reach")

    def propose(count: int) -> Array:
        chosen = np.searchsorted(cumulative, cumulative[-1] * rng.random(count), side="right")
        angles = grid.centre[:, cells[chosen]]
        angles += (2 * EXTENT / CELLS) * (rng.random((3, count)) - 0.5)
        reach, height = _end_point(angles)
        near = np.flatnonzero(np.abs(height - up) < epsilon)
        angles, centre = angles[:, near], across - reach[near]
        outer, mass = _chord(centre, np.sqrt(epsilon**2 - (height[near] - up) ** 2))
        prior = np.exp(-0.5 * np.sum(angles**2, axis=0) / ANGLE_STD**2)
        accept = rng.random(len(near)) * bound[chosen[near]] < prior * mass
        keep = np.flatnonzero(accept)
        tail = ndtri(outer[keep] + rng.random(len(keep)) * mass[keep])
        base = np.where(centre[keep] > 0, -1.0, 1.0) * BASE_STD * tail
        return np.column_stack([base, angles[:, keep].T])

    return rejection(propose, n, 4, subject)


@simulator(
    prior={"theta_1": Normal(0, BASE_STD)}
    | {f"theta_{j}": Normal(0, ANGLE_STD) for j in (2, 3, 4)},
    batched=True,
    references={"abc": abc},
)
def inverse_kinematics(theta: Array) -> Array:
    """Return x of shape (n, 2) at theta of shape (n, 4)."""
    reach, height = _end_point(theta[:, 1:].T)
    return np.stack([theta[:, 0] + reach, height], axis=1)
