"""The lattice is the original's, and what the kernel relies on holds."""

from __future__ import annotations

import ctypes
import platform
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.tumor_equality import reference
from simulators.tumor_spheroid import lattice
from simulators.tumor_spheroid.lattice import build, c_rand, search_pattern


def neighbour_sets(ptr: np.ndarray, neighbours: np.ndarray) -> list[set[int]]:
    return [set(neighbours[a:b].tolist()) for a, b in pairwise(ptr)]


def test_shipped_lattice_is_the_originals() -> None:
    stored, ours = reference(), lattice()
    np.testing.assert_allclose(np.stack([ours.x, ours.y], 1), stored["lattice_xy"], atol=1e-5)
    theirs = neighbour_sets(stored["lattice_ptr"], stored["lattice_neighbours"])
    assert neighbour_sets(ours.ptr, ours.neighbours) == theirs
    assert ours.middle == 4949
    assert ours.wall.sum() == 401


def test_recipe_reproduces_the_shipped_file() -> None:
    xy, ptr, neighbours = build(100, 0)
    ours = lattice()
    np.testing.assert_array_equal(xy, np.stack([ours.x, ours.y], 1))
    np.testing.assert_array_equal(ptr, ours.ptr)
    np.testing.assert_array_equal(neighbours, ours.neighbours)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="compares with glibc's rand")
@pytest.mark.parametrize("seed", [0, 1, 42, 65535])
def test_c_rand_is_glibc_rand(seed: int) -> None:
    libc = ctypes.CDLL(None)
    libc.srand(seed)
    assert c_rand(seed, 1000).tolist() == [libc.rand() for _ in range(1000)]


@pytest.mark.parametrize(("side", "seed"), [(30, 0), (30, 5), (17, 1)])
def test_other_lattices(side: int, seed: int) -> None:
    sites = lattice(side, seed)
    sets = neighbour_sets(sites.ptr, sites.neighbours)
    assert all(s in sets[u] for s, own in enumerate(sets) for u in own)
    assert all(s not in own for s, own in enumerate(sets))
    column, row = np.divmod(np.arange(side * side), side)
    assert ((sites.x >= column) & (sites.x <= column + 1)).all()
    assert ((sites.y >= row) & (sites.y <= row + 1)).all()


@pytest.mark.parametrize(("side", "seed"), [(30, 0), (30, 5)])
def test_some_neighbour_is_always_nearer_to_any_other_site(side: int, seed: int) -> None:
    sites = lattice(side, seed)
    distance = np.hypot(sites.x[:, None] - sites.x, sites.y[:, None] - sites.y)
    for s in range(side * side):
        nearer = distance[sites.neighbours_of(s)].min(axis=0) < distance[s]
        nearer[s] = True
        assert nearer.all()


def test_search_pattern_holds_the_shells_of_its_centre() -> None:
    pattern = search_pattern(100, 0, 4950)
    sites = lattice()
    first = pattern.offsets[: pattern.start[2]] + 4950
    assert set(first.tolist()) == set(sites.neighbours_of(4950).tolist())
    assert len(set(pattern.offsets.tolist())) == len(pattern.offsets) == pattern.start[-1]
    assert len(pattern.start) == 12


@pytest.mark.parametrize("arguments", [(5, 0), (99.5, 0), (100, -1), (100, 2**31)])
def test_bad_lattice_is_named(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"side=|lattice_seed="):
        lattice(*arguments)
