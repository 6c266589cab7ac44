"""Simple likelihood, complex posterior: four points from a normal distribution in the plane.

    theta ~ U(-3, 3)^5,  m = (theta_1, theta_2),  s = (theta_3^2, theta_4^2),  rho = tanh theta_5
    x_i ~ N(m, C),  i = 1..4,    C = [[s_1^2, rho s_1 s_2], [rho s_1 s_2, s_2^2]]

The posterior has four modes, since theta_3 and theta_4 enter by their squares. With the mean xbar
and the scatter matrix S of the points, integrating over m without its bounds leaves |C|^{-3/2}
exp(-tr(C^-1 S) / 2), and the uniform prior has the density 1 / ((C_11 C_22)^{5/4} (1 - rho^2)) over C
up to a constant. Their product is an inverse Wishart density with 2.5 degrees of freedom, which is
proportional to |C|^{-11/4} exp(-tr(C^-1 S) / 2), times (1 - rho^2)^{1/4} <= 1. Hence exact draws:

    C ~ InverseWishart(S, 2.5), accepted with probability (1 - rho^2)^{1/4};   m ~ N(xbar, C / 4);
    signs of theta_3 and theta_4 by fair coins;   accepted if theta is in the box.

Definition: Sequential Neural Likelihood (2019, arXiv 1805.07226) as in Benchmarking Simulation-Based
Inference (2021, arXiv 2101.04653), task T.3, whose code adds 1e-6 to both variances to keep C
invertible in single precision; there is no such term here.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from simulators.distribution import LOG_SQRT_2PI, Array, Uniform
from simulators.recipe import simulator
from simulators.simulator import Observation

BOUND = 3.0
POINTS = 4
FREEDOM = 2.5
MAX_PROPOSALS = 50_000_000  # for one call of the reference


def _inverse_wishart(scatter: Array, n: int, rng: Generator) -> tuple[Array, Array, Array]:
    """Draw C ~ InverseWishart(S, 2.5) by Bartlett's decomposition: C_11, C_12, C_22, each (n,).

    C = (L T^-T)(L T^-T)^T with S = L L^T and a lower triangular T, T_11^2 ~ chi^2(2.5), T_22^2 ~
    chi^2(1.5), T_21 ~ N(0, 1).
    """
    factor = np.linalg.cholesky(scatter)
    t11, t22 = np.sqrt(rng.chisquare(FREEDOM, n)), np.sqrt(rng.chisquare(FREEDOM - 1, n))
    t21 = rng.standard_normal(n)
    # B = T^-T is upper triangular: [[1 / t11, -t21 / (t11 t22)], [0, 1 / t22]]
    b11, b12, b22 = 1 / t11, -t21 / (t11 * t22), 1 / t22
    g11, g12 = factor[0, 0] * b11, factor[0, 0] * b12
    g21, g22 = factor[1, 0] * b11, factor[1, 0] * b12 + factor[1, 1] * b22
    return g11**2 + g12**2, g11 * g21 + g12 * g22, g21**2 + g22**2


def exact(x: Observation, n: int, rng: Generator) -> Array:
    """Draw from the posterior by rejection, shape (n, 5).

    Raises ValueError where x has (nearly) no probability under the prior.
    """
    points = x["x"].reshape(POINTS, 2)
    mean = points.mean(axis=0)
    scatter = (points - mean).T @ (points - mean)
    accepted, missing, proposed = [np.empty((0, 5))], n, 0
    while missing > 0:
        if proposed > MAX_PROPOSALS:
            raise ValueError(f"slcp: x = {x['x'].tolist()} is (nearly) impossible")
        count = min(max(4 * missing, proposed), 1_000_000)
        theta, probability = _proposal(mean, scatter, count, rng)
        inside = np.all(np.abs(theta) <= BOUND, axis=1)
        keep = inside & (rng.random(count) < probability)
        accepted.append(theta[keep][:missing])
        missing -= len(accepted[-1])
        proposed += count
    return np.concatenate(accepted)


def _proposal(mean: Array, scatter: Array, n: int, rng: Generator) -> tuple[Array, Array]:
    """Draw theta without its bounds, (n, 5), and the probability to accept each, (n,)."""
    c11, c12, c22 = _inverse_wishart(scatter, n, rng)
    rho = np.clip(c12 / np.sqrt(c11 * c22), -1 + 1e-12, 1 - 1e-12)
    remainder = 1 - rho**2
    z1, z2 = rng.standard_normal((2, n))
    signs = np.where(rng.random((2, n)) < 0.5, -1.0, 1.0)
    columns = [
        mean[0] + np.sqrt(c11 / POINTS) * z1,
        mean[1] + np.sqrt(c22 / POINTS) * (rho * z1 + np.sqrt(remainder) * z2),
        signs[0] * c11**0.25,
        signs[1] * c22**0.25,
        np.arctanh(rho),
    ]
    return np.stack(columns, axis=1), remainder**0.25


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
