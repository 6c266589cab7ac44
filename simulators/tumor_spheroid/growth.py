"""What a cell does: it grows, pushing others, and divides."""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.clocks import refresh, stop_clock
from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.lattice import Lattice, Pattern
from simulators.tumor_spheroid.matrix import bring_up
from simulators.tumor_spheroid.search import closest_free, reentry_probability, squared_distance
from simulators.tumor_spheroid.state import CELLS, FULL, IDLE_CLOCK, Parameters, Powers, Tumour
from simulators.tumor_spheroid.xoshiro import uniform


@njit
def fill(
    lattice: Lattice, tumour: Tumour, powers: Powers, parameters: Parameters, s: int, steps: int
) -> None:
    """Site s becomes occupied: its neighbours have one empty neighbour less, ECM is made there."""
    begin, end = lattice.ptr[s], lattice.ptr[s + 1]
    spread = parameters.ecm_production_rate / (2.0 * (end - begin))
    for j in range(begin, end):
        u = lattice.neighbours[j]
        tumour.empties[u] -= 1
        bring_up(tumour, powers, u, steps)
        tumour.source[u] += spread
    bring_up(tumour, powers, s, steps)
    tumour.source[s] += 0.5 * parameters.ecm_production_rate
    tumour.counts[FULL] += 1


@njit
def _next_on_path(lattice: Lattice, s: int, t: int) -> int:
    """The lattice neighbour of s nearest to t."""
    best, nearest = np.inf, -1
    for j in range(lattice.ptr[s], lattice.ptr[s + 1]):
        d2 = squared_distance(lattice, lattice.neighbours[j], t)
        if d2 < best:
            best, nearest = d2, lattice.neighbours[j]
    return nearest


@njit
def _path_to_empty(lattice: Lattice, tumour: Tumour, s: int, t: int, path: np.ndarray) -> int:
    """Greedy path from s towards the empty site t, up to the first empty site; its length.

    On a Delaunay triangulation every step comes nearer to t. Should the rim of another lattice
    lack the triangle, the length is 0.
    """
    length = 0
    x = s
    while tumour.owner[x] >= 0:
        step = _next_on_path(lattice, x, t)
        if squared_distance(lattice, step, t) >= squared_distance(lattice, x, t):
            return 0
        x = step
        path[length] = x
        length += 1
    return length


@njit
def _shift(tumour: Tumour, cell: int, source: int, target: int) -> None:
    """The cell leaves one of its sites and appends `target` to its list of sites."""
    if tumour.second[cell] < 0:
        tumour.first[cell] = target
    else:
        if tumour.first[cell] == source:
            tumour.first[cell] = tumour.second[cell]
        tumour.second[cell] = target
    tumour.owner[target] = cell


@njit
def grow(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: np.ndarray,
    cell: int,
    steps: int,
) -> None:
    """The cell takes a second site, if need be by pushing a chain of cells, or becomes stuck."""
    path = tumour.path
    s = tumour.first[cell]
    t = closest_free(tumour, pattern, rng, s)
    length = 0
    if t >= 0:
        if tumour.empties[s] > 0:
            path[0] = t
            length = 1
        else:
            length = _path_to_empty(lattice, tumour, s, t, path)
    if length == 0:
        tumour.stuck[cell] = True
        stop_clock(tumour, cell, IDLE_CLOCK)
        return
    fill(lattice, tumour, powers, parameters, path[length - 1], steps)
    for j in range(length - 1, 0, -1):
        _shift(tumour, tumour.owner[path[j - 1]], path[j - 1], path[j])
    tumour.second[cell] = path[0]
    tumour.owner[path[0]] = cell
    for j in range(length):
        refresh(tumour, tumour.owner[path[j]])


@njit
def divide(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: np.ndarray,
    mother: int,
    steps: int,
) -> None:
    """The last site goes to a daughter; both decide whether they re-enter the cycle."""
    w, v = tumour.first[mother], tumour.second[mother]
    tumour.second[mother] = -1
    daughter = tumour.counts[CELLS]
    tumour.counts[CELLS] = daughter + 1
    tumour.first[daughter] = v
    tumour.owner[v] = daughter
    threshold = parameters.ecm_division_threshold
    mother_may = bring_up(tumour, powers, w, steps) >= threshold
    daughter_may = bring_up(tumour, powers, v, steps) >= threshold
    p = 0.0
    if mother_may or daughter_may:
        p = reentry_probability(lattice, tumour, pattern, rng, parameters, v)
    tumour.cycling[daughter] = daughter_may and uniform(rng) <= p
    tumour.cycling[mother] = mother_may and uniform(rng) <= p
    refresh(tumour, daughter)
    refresh(tumour, mother)


@njit
def seed_disc(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: np.ndarray,
) -> None:
    """Cells on every site nearer than R0 to the pattern's centre, cycling with probability (1 - q) P."""
    radius2 = parameters.initial_spheroid_radius**2
    for s in range(lattice.x.size):
        if squared_distance(lattice, s, pattern.centre) < radius2:
            cell = tumour.counts[CELLS]
            tumour.first[cell] = s
            tumour.owner[s] = cell
            tumour.counts[CELLS] = cell + 1
            fill(lattice, tumour, powers, parameters, s, 0)
    for cell in range(tumour.counts[CELLS]):
        p = reentry_probability(lattice, tumour, pattern, rng, parameters, tumour.first[cell])
        p *= 1.0 - parameters.initial_quiescent_cell_fraction
        tumour.cycling[cell] = uniform(rng) < p
        refresh(tumour, cell)
