"""Constants of the model, and the arrays on which a run works."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from simulators.tumor_spheroid.lattice import Lattice

UM_PER_UNIT = 16.8 * 0.805995977008235  # re-entry rule and profiles
UM_PER_UNIT_GROWTH = 16.8 * 0.8  # growth curve
CELL_DIAMETER = 16.8  # um
STAGES = 10  # growth stages, then one division event
FAR = np.sqrt(200.0)  # distance to a free site when none is found, in lattice units
NULL_RATE = 1.0 / 24.0  # 1/h
DAY = 24.0
PROFILE_DAY = 17
PROFILE_LENGTH = 1000
ECM_STEP = 0.01  # h
EMPTY, QUIESCENT, CYCLING, STUCK = 0, 1, 2, 3  # states of a site in a snapshot

ACTIVE, IDLE, CELLS, FULL = 0, 1, 2, 3  # entries of Tumour.counts
NO_CLOCK, IDLE_CLOCK = -1, -2  # values of Tumour.slot besides an index
NOT_SOUGHT, WALL = -1, -2  # values of Profile.nearest besides a site
BLOCK = 256


class Parameters(NamedTuple):
    """The seven parameters in natural units (symbols k, R0, q, D, p_e, d_e, e*)."""

    division_rate: float
    initial_spheroid_radius: float
    initial_quiescent_cell_fraction: float
    division_depth: float
    ecm_production_rate: float
    ecm_degradation_rate: float
    ecm_division_threshold: float


class Tumour(NamedTuple):
    """The state of one run.

    Per cell: ``first``, ``second`` (its sites, -1: none), ``cycling``, ``stuck``, ``slot`` (index of
    its clock). Per clock: ``clocks``, the cell, and ``ticks`` left until it acts. Per site: ``owner``
    (cell, -1: empty), ``empties`` (number of empty neighbours), ``shell`` (no empty site in any
    earlier shell), ``ecm`` after ``ecm_steps`` Euler steps, with ``source``. ``path``: room for a
    list of sites. ``counts``: numbers of clocks, idle clocks, cells, occupied sites.
    """

    first: np.ndarray
    second: np.ndarray
    cycling: np.ndarray
    stuck: np.ndarray
    slot: np.ndarray
    owner: np.ndarray
    empties: np.ndarray
    shell: np.ndarray
    ecm: np.ndarray
    ecm_steps: np.ndarray
    source: np.ndarray
    clocks: np.ndarray
    ticks: np.ndarray
    path: np.ndarray
    counts: np.ndarray


class Powers(NamedTuple):
    """m = 256 i + j Euler steps of de/dt = S - d e as e <- decay e + gain S, split in i and j."""

    decay_j: np.ndarray
    gain_j: np.ndarray
    decay_i: np.ndarray
    gain_i: np.ndarray


class Profile(NamedTuple):
    """Sums over the pictures of the profile day, and the rim as the last picture saw it.

    Per bin, as differences to the bin before: number of ``cells``, their ``ecm``, how many are
    ``cycling``. The rim is the empty sites beside a cell, by column in ``points`` from ``start``, at
    ``x``, ``y``, and the sites ``behind_wall``: all neighbours of occupied domain-border sites. Per site:
    ``empty2``, squared distance to the ``nearest`` point of the first kind, ``wall2`` to the second.
    ``sites``: number of occupied sites when the rim was made.
    """

    cells: np.ndarray
    ecm: np.ndarray
    cycling: np.ndarray
    points: np.ndarray
    x: np.ndarray
    y: np.ndarray
    start: np.ndarray
    nearest: np.ndarray
    empty2: np.ndarray
    behind_wall: np.ndarray
    wall2: np.ndarray
    sites: np.ndarray


class Outputs(NamedTuple):
    """What a run fills: growth (days,), profiles (1000,), snapshots (times, sites)."""

    growth: np.ndarray
    ecm_profile: np.ndarray
    proliferation_profile: np.ndarray
    snapshot_times: np.ndarray
    snapshot_cell: np.ndarray
    snapshot_state: np.ndarray
    snapshot_ecm: np.ndarray


def new_tumour(lattice: Lattice) -> Tumour:
    """A tumour without cells."""
    n = lattice.x.size
    return Tumour(
        first=np.full(n, -1, np.int32),
        second=np.full(n, -1, np.int32),
        cycling=np.zeros(n, np.bool_),
        stuck=np.zeros(n, np.bool_),
        slot=np.full(n, NO_CLOCK, np.int32),
        owner=np.full(n, -1, np.int32),
        empties=np.diff(lattice.ptr).astype(np.int16),
        shell=np.ones(n, np.int8),
        ecm=np.zeros(n),
        ecm_steps=np.zeros(n, np.int32),
        source=np.zeros(n),
        clocks=np.empty(n, np.int32),
        ticks=np.empty(n, np.int8),
        path=np.empty(n, np.int32),
        counts=np.zeros(4, np.int64),
    )


def new_powers(end_time: float) -> Powers:
    """Tables without content, long enough for the steps until ``end_time`` (h)."""
    blocks = int(end_time / ECM_STEP) // BLOCK + 2
    return Powers(np.empty(BLOCK), np.empty(BLOCK), np.empty(blocks), np.empty(blocks))


def new_profile(lattice: Lattice) -> Profile:
    """A profile without pictures."""
    n, bins = lattice.x.size, PROFILE_LENGTH + 1
    return Profile(
        cells=np.zeros(bins, np.int64),
        ecm=np.zeros(bins),
        cycling=np.zeros(bins, np.int64),
        points=np.empty(n, np.int32),
        x=np.empty(n),
        y=np.empty(n),
        start=np.empty(lattice.side + 1, np.int32),
        nearest=np.full(n, NOT_SOUGHT, np.int32),
        empty2=np.empty(n),
        behind_wall=np.zeros(n, np.bool_),
        wall2=np.full(n, np.inf),
        sites=np.zeros(1, np.int64),
    )


def new_outputs(lattice: Lattice, end_time: float, snapshot_times: np.ndarray) -> Outputs:
    """Outputs to be filled; snapshots of cell (-1: none), state and ECM of every site."""
    shape = (snapshot_times.size, lattice.x.size)
    return Outputs(
        np.zeros(int(end_time / DAY)),
        np.zeros(PROFILE_LENGTH),
        np.zeros(PROFILE_LENGTH),
        snapshot_times,
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.int8),
        np.zeros(shape),
    )
