"""The search for a free site, and the probability to re-enter the cycle that follows from it."""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.lattice import SEARCH_DEPTH, Lattice, Pattern
from simulators.tumor_spheroid.state import FAR, UM_PER_UNIT, Parameters, Tumour
from simulators.tumor_spheroid.xoshiro import below


@njit
def closest_free(tumour: Tumour, pattern: Pattern, rng: np.ndarray, s: int) -> int:
    """A random empty site of the first shell that has one, -1 if no shell has."""
    n, found = tumour.owner.size, tumour.path
    for g in range(tumour.shell[s], SEARCH_DEPTH + 1):
        free = 0
        for j in range(pattern.start[g], pattern.start[g + 1]):
            u = s + pattern.offsets[j]
            if 0 <= u < n and tumour.owner[u] < 0:
                found[free] = u
                free += 1
        if free > 0:
            tumour.shell[s] = g
            return found[below(rng, free)]
    tumour.shell[s] = SEARCH_DEPTH + 1
    return -1


@njit
def squared_distance(lattice: Lattice, s: int, t: int) -> float:
    dx = lattice.x[s] - lattice.x[t]
    dy = lattice.y[s] - lattice.y[t]
    return dx * dx + dy * dy


@njit
def reentry_probability(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    rng: np.ndarray,
    parameters: Parameters,
    s: int,
) -> float:
    """P(s) = exp(-13.54 um * sqrt(floor(|x_s - x_t|^2)) / D), t the closest free site."""
    t = closest_free(tumour, pattern, rng, s)
    distance = FAR if t < 0 else np.sqrt(np.floor(squared_distance(lattice, s, t)))
    return np.exp(-UM_PER_UNIT * distance / parameters.division_depth)
