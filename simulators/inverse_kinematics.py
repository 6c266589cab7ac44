"""Inverse kinematics: the end point of an arm of three segments on a sliding base.

    theta ~ N(0, diag(0.25, 0.5, 0.5, 0.5)^2),    l = (0.5, 0.5, 1)
    a_1 = theta_2,  a_2 = theta_2 + theta_3,  a_3 = theta_2 + theta_3 + theta_4
    x_1 = theta_1 + sum_k l_k sin a_k,    x_2 = sum_k l_k cos a_k

There is no noise, so the reference is the ABC posterior p(theta | |x(theta) - x| < eps). x_2 depends
on the angles alone and x_1 is linear in theta_1, which allows to integrate theta_1 out of the
rejection: with s = x_1 - sum_k l_k sin a_k and the half chord h = sqrt(eps^2 - (x_2(theta) - x_2)^2),

    p(angles | accepted) ~ p(angles) 1[h^2 > 0] P(s - h < theta_1 < s + h)

is sampled by accepting angles from the prior with that probability divided by its largest value,
P(|theta_1| < eps), and theta_1 by the normal distribution truncated to the chord.

Definition: Benchmarking Invertible Architectures on Inverse Problems (2021, arXiv 2101.10763), with
eps of Consistency Models for Scalable and Fast Simulation-Based Inference (2023, arXiv 2312.05440).
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from simulators.distribution import Array, Normal
from simulators.recipe import simulator
from simulators.simulator import Observation

SEGMENTS = (0.5, 0.5, 1.0)
BASE_STD, ANGLE_STD = 0.25, 0.5
EPSILON = 0.002
CHUNK = 1 << 16
MAX_PROPOSALS = 3_000_000_000  # for one call of the reference


def _heights(angles: Array) -> Array:
    """Return sum_k l_k cos a_k for angles theta_2..4 of shape (3, n)."""
    first, second, third = SEGMENTS
    a = angles[0]
    height = first * np.cos(a)
    a = a + angles[1]
    height += second * np.cos(a)
    a += angles[2]
    height += third * np.cos(a)
    return height


def _reach(angles: Array) -> Array:
    """Return sum_k l_k sin a_k for angles theta_2..4 of shape (3, n)."""
    return np.tensordot(SEGMENTS, np.sin(np.cumsum(angles, axis=0)), axes=1)


def abc(x: Observation, n: int, rng: Generator, epsilon: float = EPSILON) -> Array:
    """Draw from the ABC posterior within Euclidean distance `epsilon` of x, shape (n, 4).

    Raises ValueError where x is (nearly) out of reach.
    """
    from scipy.special import ndtr, ndtri

    across, height = (float(value) for value in x["x"])
    largest = 2 * ndtr(epsilon / BASE_STD) - 1
    accepted, missing = [np.empty((0, 4))], n
    for _ in range(MAX_PROPOSALS // CHUNK):
        if missing <= 0:
            return np.concatenate(accepted)
        angles = rng.standard_normal((3, CHUNK))
        angles *= ANGLE_STD
        offset = _heights(angles)
        offset -= height
        near = np.flatnonzero(np.abs(offset) < epsilon)
        angles, offset = angles[:, near], offset[near]
        centre, chord = across - _reach(angles), np.sqrt(epsilon**2 - offset**2)
        sign = np.where(centre > 0, -1.0, 1.0)  # the lower tail keeps its precision
        left = ndtr((sign * centre - chord) / BASE_STD)
        mass = ndtr((sign * centre + chord) / BASE_STD) - left
        keep = np.flatnonzero(rng.random(len(near)) * largest < mass)[:missing]
        u = rng.random(len(keep))
        base = BASE_STD * sign[keep] * ndtri(left[keep] + u * mass[keep])
        accepted.append(np.column_stack([base, angles[:, keep].T]))
        missing -= len(keep)
    raise ValueError(f"inverse_kinematics: x = {x['x'].tolist()} is (nearly) out of reach")


@simulator(
    prior={"theta_1": Normal(0, BASE_STD)}
    | {f"theta_{j}": Normal(0, ANGLE_STD) for j in (2, 3, 4)},
    batched=True,
    references={"abc": abc},
)
def inverse_kinematics(theta: Array) -> Array:
    """Return x of shape (n, 2) at theta of shape (n, 4)."""
    angles = theta[:, 1:].T
    return np.stack([theta[:, 0] + _reach(angles), _heights(angles)], axis=1)
