"""Simple likelihood, complex posterior: four points from a normal distribution in the plane.

    theta ~ U(-3, 3)^5,  m = (theta_1, theta_2),  s = (theta_3^2, theta_4^2),  rho = tanh theta_5
    x_i ~ N(m, C),  i = 1..4,    C = [[s_1^2, rho s_1 s_2], [rho s_1 s_2, s_2^2]]

The posterior has four modes, since theta_3 and theta_4 enter by their squares. Over (m, C) the
uniform prior has the density 1 / ((C_11 C_22)^{5/4} (1 - rho^2)) up to a constant. With the mean xbar
and the scatter matrix S of the points and A = S + 4 (xbar - m)(xbar - m)^T, the posterior is

    p(m, C | x) ~ |C|^{-13/4} exp(-tr(C^-1 A) / 2) (1 - rho^2)^{1/4}    inside the prior's box

an inverse Wishart density in C times a factor of at most one. Its normaliser leaves for m a
t-density with 1.5 degrees of freedom, t(m) ~ |A|^{-7/4}. Hence independent, exact draws:

    m ~ t, or uniform in the box with rejection, whichever needs the smaller constant;
    C ~ InverseWishart(A, 3.5), accepted with probability (1 - rho^2)^{1/4};
    signs of theta_3 and theta_4 by fair coins;    accepted if theta is in the box.

Definition: Sequential Neural Likelihood (2019, arXiv 1805.07226) as in Benchmarking Simulation-Based
Inference (2021, arXiv 2101.04653), task T.3, whose code adds 1e-6 to both variances to keep C
invertible in single precision; there is no such term here.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, Uniform
from simulators.factory import simulator
from simulators.rejection import rejection
from simulators.simulator import Observation

BOUND = 3.0
POINTS = 4
MEAN_FREEDOM, FREEDOM = 1.5, 3.5  # of the t and of the inverse Wishart distribution


class _Means:
    """Proposals of m from its marginal t-distribution restricted to the box."""

    def __init__(self, mean: Array, scatter: Array) -> None:
        self.mean = mean
        self.scale = scatter / (POINTS * MEAN_FREEDOM)
        self.factor = np.linalg.cholesky(self.scale)
        self.highest = self._density(self._nearest()[None])[0]
        self.uniform = (2 * BOUND) ** 2 * self.highest < 1

    def _density(self, m: Array) -> Array:
        z = np.linalg.solve(self.factor, (m - self.mean).T)
        norm = 2 * math.pi * math.sqrt(np.linalg.det(self.scale))
        return (1 + np.sum(z * z, axis=0) / MEAN_FREEDOM) ** (-0.5 * MEAN_FREEDOM - 1) / norm

    def _nearest(self) -> Array:
        """Return the point of the box with the highest density, by Mahalanobis distance."""
        if np.all(np.abs(self.mean) <= BOUND):
            return self.mean
        precision = np.linalg.inv(self.scale)
        edges = []
        for j, side in itertools.product((0, 1), (-BOUND, BOUND)):
            other = self.mean[1 - j] - precision[0, 1] / precision[1 - j, 1 - j] * (
                side - self.mean[j]
            )
            point = np.empty(2)
            point[j], point[1 - j] = side, np.clip(other, -BOUND, BOUND)
            edges.append(point)
        return max(edges, key=lambda point: self._density(point[None])[0])

    def sample(self, n: int, rng: Generator) -> Array:
        """Propose `n` times; return those in the box, (at most n, 2)."""
        if self.uniform:
            m = BOUND * (2 * rng.random((n, 2)) - 1)
            return m[rng.random(n) * self.highest < self._density(m)]
        spread = np.sqrt(rng.chisquare(MEAN_FREEDOM, (n, 1)) / MEAN_FREEDOM)
        m = self.mean + rng.standard_normal((n, 2)) @ self.factor.T / spread
        return m[np.all(np.abs(m) <= BOUND, axis=1)]


def _inverse_wishart(scale: Array, rng: Generator) -> tuple[Array, Array, Array]:
    """Draw C ~ InverseWishart(A, 3.5) for each A in (n, 2, 2): C_11, C_12, C_22, each (n,).

    Bartlett's decomposition: C = G G^T, G = L T^-T, A = L L^T, with a lower triangular T,
    T_11^2 ~ chi^2(3.5), T_22^2 ~ chi^2(2.5), T_21 ~ N(0, 1).
    """
    n = len(scale)
    l11 = np.sqrt(scale[:, 0, 0])
    l21 = scale[:, 0, 1] / l11
    l22 = np.sqrt(scale[:, 1, 1] - l21**2)
    t11, t22 = np.sqrt(rng.chisquare(FREEDOM, n)), np.sqrt(rng.chisquare(FREEDOM - 1, n))
    cross = -rng.standard_normal(n) / (t11 * t22)
    g11, g12 = l11 / t11, l11 * cross
    g21, g22 = l21 / t11, l21 * cross + l22 / t22
    return g11**2 + g12**2, g11 * g21 + g12 * g22, g21**2 + g22**2


def exact(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior by rejection, shape (n, 5).

    Raises ValueError where x has (nearly) no probability under the prior.
    """
    points = x["x"].reshape(POINTS, 2)
    mean = points.mean(axis=0)
    scatter = (points - mean).T @ (points - mean)
    means = _Means(mean, scatter)

    def propose(count: int) -> Array:
        m = means.sample(count, rng)
        away = mean - m
        scale = scatter + POINTS * away[:, :, None] * away[:, None, :]
        theta, probability = _parameters(m, _inverse_wishart(scale, rng), rng)
        inside = np.all(np.abs(theta) <= BOUND, axis=1)
        return theta[inside & (rng.random(len(m)) < probability)]

    return rejection(propose, n, 5, f"slcp: x = {x['x'].tolist()}")


def _parameters(
    m: Array, covariance: tuple[Array, Array, Array], rng: Generator
) -> tuple[Array, Array]:
    """Return theta, (n, 5), of m and C with random signs, and (1 - rho^2)^{1/4}, (n,)."""
    c11, c12, c22 = covariance
    rho = np.clip(c12 / np.sqrt(c11 * c22), -1 + 1e-12, 1 - 1e-12)  # beyond the box by far
    signs = np.where(rng.random((2, len(m))) < 0.5, -1.0, 1.0)
    roots = [signs[0] * c11**0.25, signs[1] * c22**0.25]
    return np.column_stack([m, *roots, np.arctanh(rho)]), (1 - rho**2) ** 0.25


def log_likelihood(theta: Array, x: Observation) -> Array:
    """Return log p(x | theta), shape (n,)."""
    points = x["x"].reshape(1, POINTS, 2)
    m, s = theta[:, None, :2], theta[:, None, 2:4] ** 2
    rho, remainder = np.tanh(theta[:, 4:]), np.cosh(theta[:, 4:]) ** -2.0  # 1 - rho^2
    z = (points - m) / s
    z1, z2 = z[..., 0], z[..., 1]
    square = (z1 - rho * z2) ** 2 / remainder + z2**2
    log_scale = np.sum(np.log(s[:, 0]), axis=1) + 0.5 * np.log(remainder[:, 0])
    return -0.5 * np.sum(square, axis=1) - POINTS * (log_scale + 2 * LOG_SQRT_2PI)


@simulator(
    prior={f"theta_{j}": Uniform(-BOUND, BOUND) for j in range(1, 6)},
    batched=True,
    references={"exact": exact},
    log_likelihood=log_likelihood,
)
def slcp(theta: Array, rng: Generator) -> Array:
    """Draw x of shape (n, 8), the points one after the other, at theta of shape (n, 5)."""
    z = rng.standard_normal((2, POINTS, len(theta)))
    rho = np.tanh(theta[:, 4])
    x = np.empty((len(theta), POINTS, 2))
    x[:, :, 0] = (theta[:, 0] + theta[:, 2] ** 2 * z[0]).T
    x[:, :, 1] = (theta[:, 1] + theta[:, 3] ** 2 * (rho * z[0] + np.sqrt(1 - rho**2) * z[1])).T
    return x.reshape(len(theta), 2 * POINTS)
