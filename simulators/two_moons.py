"""Two moons: a posterior of two crescents in two dimensions.

    theta ~ U(-1, 1)^2,    a ~ U(-pi/2, pi/2),    r ~ N(0.1, 0.01^2),    p = (r cos a, r sin a)
    x = p + (0.25 - |u|, v),    u = (theta_1 + theta_2) / sqrt 2,    v = (theta_2 - theta_1) / sqrt 2

(u, v) is a rotation of theta, and at fixed x and sign of u the map from p to (|u|, v) =
(p_1 + 0.25 - x_1, x_2 - p_2) is a translation and a reflection. All these have a Jacobian of modulus
one, so under the uniform prior the posterior is the noise p carried over to theta: both signs of u
equally likely, restricted to |u| >= 0 and to the prior's box.

Definition: Automatic Posterior Transformation (2019, arXiv 1905.07488) with the constants of
Benchmarking Simulation-Based Inference (2021, arXiv 2101.04653), task T.8.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, Uniform
from simulators.factory import simulator
from simulators.rejection import rejection
from simulators.simulator import Observation

RADIUS, RADIUS_STD, OFFSET = 0.1, 0.01, 0.25
ROOT_HALF = math.sqrt(0.5)


def _noise(n: int, rng: Generator) -> tuple[Array, Array]:
    """Draw the two coordinates of p, each of shape (n,)."""
    angle = rng.random(n)
    angle -= 0.5
    angle *= math.pi
    radius = rng.standard_normal(n)
    radius *= RADIUS_STD
    radius += RADIUS
    sine = np.sin(angle)
    sine *= radius
    cosine = np.cos(angle, out=angle)
    cosine *= radius
    return cosine, sine


def _mirrored(x: Observation, n: int, rng: Generator) -> tuple[Array, Array]:
    """Carry noise over to theta: |u|, which may come out negative, and theta of shape (n, 2)."""
    first, second = _noise(n, rng)
    size = first + OFFSET - x["x"][0]
    u = np.where(rng.random(n) < 0.5, -size, size)
    v = x["x"][1] - second
    return size, ROOT_HALF * np.stack([u - v, u + v], axis=1)


def exact(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior, with the prior's truncation, shape (n, 2).

    Raises ValueError where x has (nearly) no probability under the prior.
    """

    def propose(count: int) -> Array:
        size, theta = _mirrored(x, count, rng)
        return theta[(size >= 0) & np.all(np.abs(theta) <= 1, axis=1)]

    return rejection(propose, n, 2, f"two_moons: x = {x['x'].tolist()}")


def untruncated(x: Observation, n: int, rng: Generator) -> Array:
    """Draw the two moons of the CMPE paper's code, shape (n, 2).

    Neither the prior's box nor |u| >= 0 is imposed: 6 % of its mass lies outside the prior, on the
    average over x (Consistency Models for Scalable and Fast Simulation-Based Inference, 2023, arXiv
    2312.05440).
    """
    return _mirrored(x, n, rng)[1]


def displacement(theta: Array, x: Array) -> tuple[Array, Array]:
    """Return the coordinates of p that led from theta (..., 2) to x, which broadcasts with it."""
    first = x[..., 0] - OFFSET + ROOT_HALF * np.abs(theta[..., 0] + theta[..., 1])
    second = x[..., 1] - ROOT_HALF * (theta[..., 1] - theta[..., 0])
    return first, second


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta) = log N(r; 0.1, 0.01^2) - log(pi |r|), shape (n,).

    r is the length of p with the sign of p_1, since |a| <= pi / 2.
    """
    first, second = displacement(theta, x["x"])
    length = np.hypot(first, second)
    z = (np.copysign(length, first) - RADIUS) / RADIUS_STD
    return -0.5 * z * z - LOG_SQRT_2PI - math.log(RADIUS_STD) - np.log(math.pi * length)


@simulator(
    prior={"theta_1": Uniform(-1, 1), "theta_2": Uniform(-1, 1)},
    batched=True,
    references={"exact": exact, "untruncated": untruncated},
    log_likelihood=log_likelihood,
)
def two_moons(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 2) at theta of shape (n, 2)."""
    first, second = theta[:, 0], theta[:, 1]
    cosine, sine = _noise(len(theta), rng)
    cosine += OFFSET
    cosine -= ROOT_HALF * np.abs(first + second)
    sine += ROOT_HALF * (second - first)
    return np.stack([cosine, sine], axis=1)
