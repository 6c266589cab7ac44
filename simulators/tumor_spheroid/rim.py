"""The rim of the spheroid: its radius, and the distance of every cell to it."""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.lattice import Lattice
from simulators.tumor_spheroid.search import squared_distance
from simulators.tumor_spheroid.state import (
    CELLS,
    FULL,
    NOT_SOUGHT,
    UM_PER_UNIT_GROWTH,
    WALL,
    Profile,
    Tumour,
)


@njit
def rim_radius(lattice: Lattice, tumour: Tumour) -> float:
    """13.44 um * root-mean-square distance of the rim from its centroid; 0 without a rim."""
    n, x, y, r2 = 0, 0.0, 0.0, 0.0
    for cell in range(tumour.counts[CELLS]):
        for s in (tumour.first[cell], tumour.second[cell]):
            if s >= 0 and (tumour.empties[s] > 0 or lattice.wall[s]):
                dx = lattice.x[s] - lattice.x[lattice.middle]
                dy = lattice.y[s] - lattice.y[lattice.middle]
                n += 1
                x += dx
                y += dy
                r2 += dx * dx + dy * dy
    if n == 0:
        return 0.0
    return UM_PER_UNIT_GROWTH * np.sqrt(max(r2 / n - (x / n) ** 2 - (y / n) ** 2, 0.0))


@njit
def update_rim(lattice: Lattice, tumour: Tumour, profile: Profile) -> None:
    """Bring the rim up to the present occupancy."""
    profile.sites[0] = tumour.counts[FULL]
    size = 0
    for s in range(lattice.x.size):
        if s % lattice.side == 0:
            profile.start[s // lattice.side] = size
        if tumour.owner[s] < 0:
            if tumour.empties[s] < lattice.ptr[s + 1] - lattice.ptr[s]:
                profile.points[size] = s
                profile.x[size], profile.y[size] = lattice.x[s], lattice.y[s]
                size += 1
        elif lattice.wall[s]:
            for j in range(lattice.ptr[s], lattice.ptr[s + 1]):
                u = lattice.neighbours[j]
                if not profile.behind_wall[u]:
                    profile.behind_wall[u] = True
                    _lower_wall2(lattice, profile, u)
    profile.start[lattice.side] = size


@njit
def _lower_wall2(lattice: Lattice, profile: Profile, u: int) -> None:
    x, y = lattice.x[u], lattice.y[u]
    for s in range(lattice.x.size):
        dx, dy = lattice.x[s] - x, lattice.y[s] - y
        profile.wall2[s] = min(profile.wall2[s], dx * dx + dy * dy)


@njit
def _find_nearest(lattice: Lattice, profile: Profile, s: int, hint: int) -> None:
    """Set the rim point nearest to s, among the columns no farther than the point `hint`.

    It stays the nearest empty one until it is filled: the empty site nearest to an occupied one is
    a rim point, for on a Delaunay triangulation some neighbour comes nearer. And where the wall is
    nearer than any empty site it stays so.
    """
    best, nearest = profile.wall2[s], WALL
    if hint >= 0 and squared_distance(lattice, s, hint) < best:
        best, nearest = squared_distance(lattice, s, hint), hint
    column = s // lattice.side
    reach = int(min(np.sqrt(best), lattice.side)) + 1  # a column k away is at least k - 1 away
    begin = profile.start[max(column - reach, 0)]
    end = profile.start[min(column + reach, lattice.side - 1) + 1]
    x, y = lattice.x[s], lattice.y[s]
    for i in range(begin, end):
        dx, dy = profile.x[i] - x, profile.y[i] - y
        d2 = dx * dx + dy * dy
        if d2 < best:
            best, nearest = d2, profile.points[i]
    profile.nearest[s] = nearest
    profile.empty2[s] = best


@njit
def depth(lattice: Lattice, tumour: Tumour, profile: Profile, s: int, hint: int) -> float:
    """Distance from s to the rim in lattice units; `hint` is a rim point that may be near, or -1."""
    nearest = profile.nearest[s]
    if nearest == NOT_SOUGHT or (nearest >= 0 and tumour.owner[nearest] >= 0):
        _find_nearest(lattice, profile, s, hint)
    return np.sqrt(min(profile.empty2[s], profile.wall2[s]))
