"""The quenched lattice on which the tumour grows: a jittered grid and its Delaunay neighbours.

Site (i, j) of a ``side`` x ``side`` grid has index ``side * i + j`` and lies at (i + u, j + v) with u, v
uniform on [0, 1). Two sites are neighbours if they share a triangle of the Delaunay triangulation
of all sites and four frame points outside the corners; triangles with a frame point do not count.
The uniform numbers are those of the C library's ``rand`` after ``srand(seed)``, which is written out
here, so that the lattice is the same on every platform.

``python -m simulators.tumor_spheroid.lattice`` rebuilds the shipped file ``lattice_100_0.npz``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIDE = 100
SEED = 0
SHIPPED = Path(__file__).with_name("lattice_100_0.npz")
MIN_SIDE, MAX_SIDE = 10, 2000
SEARCH_DEPTH = 10  # shells in the search pattern
_RAND_MAX = 2**31 - 1


class Lattice(NamedTuple):
    """Positions and neighbours of n sites (arrays are read-only).

    ``x``, ``y`` (n,): position in lattice units. ``ptr`` (n + 1,), ``neighbours``: the neighbours of
    site s are ``neighbours[ptr[s]:ptr[s + 1]]``, in ascending order. ``wall`` (n,): True for
    domain-border sites, those nearer to the bounding box than the mean site distance.
    ``middle``: the site nearest to the middle of the bounding box. ``side``: sites per row.
    """

    x: np.ndarray
    y: np.ndarray
    ptr: np.ndarray
    neighbours: np.ndarray
    wall: np.ndarray
    middle: int
    side: int

    def neighbours_of(self, site: int) -> np.ndarray:
        """Indices of the sites that share a triangle with ``site``."""
        return self.neighbours[self.ptr[site] : self.ptr[site + 1]]


@lru_cache(maxsize=4)
def lattice(side: int = SIDE, seed: int = SEED) -> Lattice:
    """The lattice with ``side`` x ``side`` sites: shipped for (100, 0), otherwise built.

    Raises ValueError for a side outside [10, 2000] or a seed outside [0, 2^31).
    """
    if not (isinstance(side, int) and MIN_SIDE <= side <= MAX_SIDE):
        raise ValueError(f"side={side!r} is not an integer in [{MIN_SIDE}, {MAX_SIDE}]")
    if not (isinstance(seed, int) and 0 <= seed <= _RAND_MAX):
        raise ValueError(f"lattice_seed={seed!r} is not an integer in [0, 2^31)")
    if (side, seed) != (SIDE, SEED):
        return _complete(*build(side, seed), side)
    with np.load(SHIPPED) as stored:
        return _complete(stored["xy"], stored["ptr"], stored["neighbours"], side)


class Pattern(NamedTuple):
    """Where a cell looks for a free site: shells 1 .. 10 of ``centre`` as offsets of the index.

    Shell g is ``offsets[start[g]:start[g + 1]]``. The offsets are added to the index of any site,
    without regard to its own neighbours or to the ends of the rows.
    """

    offsets: np.ndarray
    start: np.ndarray
    centre: int


@lru_cache(maxsize=64)
def search_pattern(side: int, seed: int, centre: int) -> Pattern:
    """The breadth-first shells of ``centre`` in the neighbour graph of ``lattice(side, seed)``."""
    sites = lattice(side, seed)
    seen, shell, shells = {centre}, [centre], []
    for _ in range(SEARCH_DEPTH):
        found = sorted({int(u) for s in shell for u in sites.neighbours_of(s)} - seen)
        seen.update(found)
        shells.append(found)
        shell = found
    start = np.cumsum([0, 0, *map(len, shells)])
    offsets = np.concatenate([np.array(found, dtype=np.int32) for found in shells]) - centre
    return Pattern(offsets.astype(np.int32), start.astype(np.int32), centre)


def build(side: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The recipe: (xy (n, 2) float64, ptr (n + 1,) int32, neighbours int32)."""
    n = side * side
    draws = c_rand(seed, 2 * n + 8)
    jitter = draws[: 2 * n].reshape(n, 2)[:, ::-1] / (_RAND_MAX + 1.0)  # y is drawn before x
    corner = np.stack(np.divmod(np.arange(n), side), axis=1)
    xy = _seven_digits((corner + jitter).astype(np.float32))
    points = np.concatenate([xy, _frame(xy, draws[2 * n :].reshape(4, 2) / _RAND_MAX)])
    return xy, *_delaunay_neighbours(points, n)


def c_rand(seed: int, n: int) -> np.ndarray:
    """The first n numbers of glibc's ``rand`` after ``srand(seed)``, integers in [0, 2^31).

    Additive feedback r[i] = r[i-3] + r[i-31] mod 2^32, output r[i] // 2, the first 310 left out;
    the first 31 words are r[i] = 16807 r[i-1] mod (2^31 - 1).
    """
    r = [seed or 1]
    for _ in range(30):
        r.append(16807 * r[-1] % _RAND_MAX)
    r += r[:3]
    for i in range(34, 344 + n):
        r.append((r[i - 3] + r[i - 31]) & 0xFFFFFFFF)
    return np.array(r[344:], dtype=np.int64) >> 1


def _seven_digits(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{v:.7g}") for v in values.ravel()]).reshape(values.shape)


def _frame(xy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Four points 0 to 2 units outside the corners of the bounding box; r (4, 2) in [0, 1]."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    points = np.empty((4, 2))
    for c in range(4):
        outward = r[c] + (1.0 if c in (0, 3) else 0.0)
        bits = np.array([c % 2, c // 2])
        points[c] = np.where(bits == 1, high + outward, low - outward)
    return points


def _delaunay_neighbours(points: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import Delaunay

    triangles = Delaunay(points).simplices
    triangles = triangles[(triangles < n).all(axis=1)].astype(np.int64)
    pairs = np.concatenate([triangles[:, [a, b]] for a in range(3) for b in range(3) if a != b])
    keys = np.unique(pairs[:, 0] * n + pairs[:, 1])
    ptr = np.searchsorted(keys, np.arange(n + 1) * n)
    return ptr.astype(np.int32), (keys % n).astype(np.int32)


def _complete(xy: np.ndarray, ptr: np.ndarray, neighbours: np.ndarray, side: int) -> Lattice:
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = np.sqrt(np.prod(high - low) / len(xy))
    wall = ((xy - low < margin) | (high - xy < margin)).any(axis=1)
    middle = int(((xy - (low + high) / 2) ** 2).sum(axis=1).argmin())
    x, y = np.ascontiguousarray(xy.T)
    arrays = (x, y, ptr.astype(np.int32), neighbours.astype(np.int32), wall)
    for array in arrays:
        array.setflags(write=False)
    return Lattice(*arrays, middle, side)


def main() -> None:
    """Rebuild the shipped lattice."""
    xy, ptr, neighbours = build(SIDE, SEED)
    np.savez_compressed(SHIPPED, xy=xy, ptr=ptr, neighbours=neighbours.astype(np.int16))


if __name__ == "__main__":
    main()
