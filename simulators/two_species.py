"""Two species that meet: the differential equations of an epidemic and of predators and prey.

    du/dt = u (a - b v),    dv/dt = v (d u - c)

With a = 0 and b = d, u is the susceptible and v the infected share of a population (SIR); with four
positive rates, u are prey and v predators (Lotka-Volterra). Around each time the solution is a Taylor
series, u(t + h) = sum_k u_k h^k, whose coefficients follow from each other:

    w_k = sum_{i <= k} u_i v_{k-i},    (k + 1) u_{k+1} = a u_k - b w_k,    (k + 1) v_{k+1} = d w_k - c v_k

A step takes K = 20 of them, and is so long that neither of the last two terms exceeds TOLERANCE times
the value. This keeps values within 1e-6 of the solution, relatively.

Reference: A Software Package for the Numerical Integration of ODEs by Means of High-Order Taylor
Methods (2005, Experimental Mathematics 14:99-117).
"""

from __future__ import annotations

from contextlib import suppress

import numba
import numpy as np

from simulators.distribution import Array

ORDER = 20
TOLERANCE = 1e-10
MAX_STEPS = 10_000


def solve(start: tuple[float, float], rates: Array, times: Array) -> Array:
    """Return u and v at times, shape (n, 2, T); NaN where more than 10 000 steps would be needed.

    Arguments:
        start: u and v at time 0, positive.
        rates: a, b, c, d, shape (n, 4).
        times: ascending, from 0 on, shape (T,).
    """
    rows = np.ascontiguousarray(rates, dtype=np.float64)
    values = np.empty((len(rows), 2, len(times)))
    _solve(start[0], start[1], rows, np.asarray(times, dtype=np.float64), values)
    return values


def _solve_rows(u0: float, v0: float, rates: Array, times: Array, values: Array) -> None:
    u, v = np.empty(ORDER + 1), np.empty(ORDER + 1)
    for row in range(rates.shape[0]):
        a, b, c, d = rates[row]
        u[0], v[0], t, left = u0, v0, 0.0, MAX_STEPS
        for point in range(times.shape[0]):
            while t < times[point] and left > 0:
                left -= 1
                for k in range(ORDER):
                    w = 0.0
                    for i in range(k + 1):
                        w += u[i] * v[k - i]
                    u[k + 1] = (a * u[k] - b * w) / (k + 1)
                    v[k + 1] = (d * w - c * v[k]) / (k + 1)
                h = times[point] - t
                last = True
                for k in range(ORDER - 1, ORDER + 1):
                    size = max(abs(u[k] / u[0]), abs(v[k] / v[0]))
                    if size * h**k > TOLERANCE:
                        h, last = (TOLERANCE / size) ** (1 / k), False
                t = times[point] if last else t + h
                x, y = u[ORDER], v[ORDER]
                for k in range(ORDER - 1, -1, -1):
                    x, y = x * h + u[k], y * h + v[k]
                u[0], v[0] = x, y
            done = t >= times[point]
            values[row, 0, point] = u[0] if done else np.nan
            values[row, 1, point] = v[0] if done else np.nan


_solve = numba.njit(nogil=True, error_model="numpy")(_solve_rows)
with suppress(RuntimeError):  # no folder in which the compiled function could be kept
    _solve.enable_caching()
