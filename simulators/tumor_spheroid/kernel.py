"""The tumour spheroid's kernel: one run of the model, compiled by Numba.

All compiled code is in this one file, because Numba's cache knows a function's own file only.

The model. Cells sit on the sites of a fixed lattice. A cell on one site that is *cycling* passes
through ten stages and then takes a second site (growth); a cell on two sites divides. Every stage
and the division last an exponential time of rate r = 11 k, so a cycle is Erlang(11, 11 k). At
division mother and daughter decide once and for all whether they go on: with probability
P = exp(-13.54 um * distance to a free site / D), and only where the extracellular matrix (ECM)
reaches a threshold. ECM is made by every cell on its site and the neighbours, and decays.

What makes it fast, without changing the law of any output:

* All clocks have one rate, so the next event is a uniformly random entry of an array.
* A site never becomes empty again. Hence the first shell of the search pattern with an empty site
  only moves outward, and each search goes on where the last one at that site stopped; and the rim
  point nearest to a site stays the nearest until it is filled.
* A cell that found no free site fails again until it is pushed. Its clock and the null event only
  mark times: together they are a Poisson process, of which only the first tick after an output time
  and the last tick before a division are needed, and both are exponential.
* The ECM has no diffusion. A site keeps (value, step, source) and is brought up to date when its
  source changes, when a division asks or when a profile is taken, by m Euler steps at once.
* Profile bands are added as differences and summed once.
"""

from __future__ import annotations

import numba
import numpy as np

from simulators.tumor_spheroid.lattice import SEARCH_DEPTH, Lattice, Pattern
from simulators.tumor_spheroid.state import (
    ACTIVE,
    BLOCK,
    CELL_DIAMETER,
    CELLS,
    CYCLING,
    DAY,
    ECM_STEP,
    EMPTY,
    FAR,
    FULL,
    IDLE,
    IDLE_CLOCK,
    NO_CLOCK,
    NOT_SOUGHT,
    NULL_RATE,
    PROFILE_DAY,
    PROFILE_LENGTH,
    QUIESCENT,
    STAGES,
    STUCK,
    UM_PER_UNIT,
    UM_PER_UNIT_GROWTH,
    WALL,
    Outputs,
    Parameters,
    Powers,
    Profile,
    Tumour,
)

Array = np.ndarray

# Nothing compiled here makes an array, so no function needs to count references to its arguments:
# counting them took two thirds of the run. And only `simulate` is called from Python: making every
# function callable from there took half of the compilation.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
njit = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)


# ---- random numbers: xoshiro256++ (Blackman, Vigna 2021), state of four words


@njit
def _rotl(x: np.uint64, k: int) -> np.uint64:
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@njit
def next_word(rng: Array) -> np.uint64:
    s0, s1, s2, s3 = rng[0], rng[1], rng[2], rng[3]
    word = _rotl(s0 + s3, 23) + s0
    s2 ^= s0
    s3 ^= s1
    rng[0] = s0 ^ s3
    rng[1] = s1 ^ s2
    rng[2] = s2 ^ (s1 << np.uint64(17))
    rng[3] = _rotl(s3, 45)
    return word


@njit
def uniform(rng: Array) -> float:
    """A number in [0, 1)."""
    return (next_word(rng) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit
def below(rng: Array, n: int) -> np.int64:
    """An integer in 0 .. n - 1, n < 2^32 (bias below n / 2^32)."""
    return np.int64(((next_word(rng) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit
def exponential(rng: Array, rate: float) -> float:
    """A waiting time of the given rate, infinite for rate 0."""
    if rate <= 0.0:
        return np.inf
    return -np.log(1.0 - uniform(rng)) / rate


# ---- search for a free site


@njit
def closest_free(tumour: Tumour, pattern: Pattern, rng: Array, s: int) -> int:
    """A random empty site of the first shell that has one, -1 if no shell has."""
    n = tumour.owner.size
    for g in range(tumour.shell[s], SEARCH_DEPTH + 1):
        free = 0
        for j in range(pattern.start[g], pattern.start[g + 1]):
            u = s + pattern.offsets[j]
            if 0 <= u < n and tumour.owner[u] < 0:
                free += 1
        if free > 0:
            tumour.shell[s] = g
            return _nth_free(tumour, pattern, s, g, below(rng, free))
    tumour.shell[s] = SEARCH_DEPTH + 1
    return -1


@njit
def _nth_free(tumour: Tumour, pattern: Pattern, s: int, g: int, rank: int) -> int:
    n = tumour.owner.size
    for j in range(pattern.start[g], pattern.start[g + 1]):
        u = s + pattern.offsets[j]
        if 0 <= u < n and tumour.owner[u] < 0:
            if rank == 0:
                return u
            rank -= 1
    return -1


@njit
def squared_distance(lattice: Lattice, s: int, t: int) -> float:
    dx = lattice.x[s] - lattice.x[t]
    dy = lattice.y[s] - lattice.y[t]
    return dx * dx + dy * dy


@njit
def reentry_probability(
    lattice: Lattice, tumour: Tumour, pattern: Pattern, rng: Array, parameters: Parameters, s: int
) -> float:
    """P(s) = exp(-13.54 um * sqrt(floor(|x_s - x_t|^2)) / D), t the closest free site."""
    t = closest_free(tumour, pattern, rng, s)
    distance = FAR if t < 0 else np.sqrt(np.floor(squared_distance(lattice, s, t)))
    return np.exp(-UM_PER_UNIT * distance / parameters.division_depth)


# ---- extracellular matrix


@njit
def steps_until(t: float) -> int:
    """Euler steps done after an event at time t: floor(t / 0.01) + 1, and none at the start."""
    return int(np.floor(t / ECM_STEP)) + 1 if t > 0.0 else 0


@njit
def _fill_powers(powers: Powers, degradation_rate: float) -> None:
    """Tables of m Euler steps, each made from the last by one more step (or 256 more)."""
    a = 1.0 - ECM_STEP * degradation_rate
    powers.decay_j[0], powers.gain_j[0] = 1.0, 0.0
    for j in range(1, BLOCK):
        powers.decay_j[j] = a * powers.decay_j[j - 1]
        powers.gain_j[j] = a * powers.gain_j[j - 1] + ECM_STEP
    block_decay = a * powers.decay_j[BLOCK - 1]
    block_gain = a * powers.gain_j[BLOCK - 1] + ECM_STEP
    powers.decay_i[0], powers.gain_i[0] = 1.0, 0.0
    for i in range(1, powers.decay_i.size):
        powers.decay_i[i] = block_decay * powers.decay_i[i - 1]
        powers.gain_i[i] = block_decay * powers.gain_i[i - 1] + block_gain


@njit
def ecm_at(tumour: Tumour, powers: Powers, s: int, steps: int) -> float:
    """ECM of site s after `steps` Euler steps."""
    m = steps - tumour.ecm_steps[s]
    i = m // BLOCK
    j = m - i * BLOCK
    e = powers.decay_j[j] * tumour.ecm[s] + powers.gain_j[j] * tumour.source[s]
    return powers.decay_i[i] * e + powers.gain_i[i] * tumour.source[s]


@njit
def _bring_up(tumour: Tumour, powers: Powers, s: int, steps: int) -> float:
    tumour.ecm[s] = ecm_at(tumour, powers, s, steps)
    tumour.ecm_steps[s] = steps
    return tumour.ecm[s]


# ---- occupancy and clocks


@njit
def _fill(
    lattice: Lattice, tumour: Tumour, powers: Powers, parameters: Parameters, s: int, steps: int
) -> None:
    """Site s becomes occupied: its neighbours have one empty neighbour less, ECM is made there."""
    begin, end = lattice.ptr[s], lattice.ptr[s + 1]
    spread = parameters.ecm_production_rate / (2.0 * (end - begin))
    for j in range(begin, end):
        u = lattice.neighbours[j]
        tumour.empties[u] -= 1
        _bring_up(tumour, powers, u, steps)
        tumour.source[u] += spread
    _bring_up(tumour, powers, s, steps)
    tumour.source[s] += 0.5 * parameters.ecm_production_rate
    tumour.counts[FULL] += 1


@njit
def _start_clock(tumour: Tumour, cell: int) -> None:
    if tumour.slot[cell] >= 0:
        return
    if tumour.slot[cell] == IDLE_CLOCK:
        tumour.counts[IDLE] -= 1
    last = tumour.counts[ACTIVE]
    tumour.clocks[last] = cell
    tumour.slot[cell] = last
    tumour.counts[ACTIVE] = last + 1


@njit
def _stop_clock(tumour: Tumour, cell: int, becomes: int) -> None:
    """The cell's clock stops (becomes = NO_CLOCK) or only ticks (becomes = IDLE_CLOCK)."""
    slot = tumour.slot[cell]
    if slot >= 0:
        last = tumour.counts[ACTIVE] - 1
        moved = tumour.clocks[last]
        tumour.clocks[slot] = moved
        tumour.slot[moved] = slot
        tumour.counts[ACTIVE] = last
    elif slot == IDLE_CLOCK:
        tumour.counts[IDLE] -= 1
    if becomes == IDLE_CLOCK:
        tumour.counts[IDLE] += 1
    tumour.slot[cell] = becomes


@njit
def _refresh(tumour: Tumour, cell: int) -> None:
    """A stuck cell beside an empty site is freed; division, growth or no clock, by its state."""
    first, second = tumour.first[cell], tumour.second[cell]
    if tumour.stuck[cell] and (
        tumour.empties[first] > 0 or (second >= 0 and tumour.empties[second] > 0)
    ):
        tumour.stuck[cell] = False
    if second >= 0 or (tumour.cycling[cell] and not tumour.stuck[cell]):
        _start_clock(tumour, cell)
    else:
        _stop_clock(tumour, cell, NO_CLOCK)


# ---- growth and division


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
def _path_to_empty(lattice: Lattice, tumour: Tumour, s: int, t: int, path: Array) -> int:
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
def _grow(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: Array,
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
        _stop_clock(tumour, cell, IDLE_CLOCK)
        return
    _fill(lattice, tumour, powers, parameters, path[length - 1], steps)
    for j in range(length - 1, 0, -1):
        _shift(tumour, tumour.owner[path[j - 1]], path[j - 1], path[j])
    tumour.second[cell] = path[0]
    tumour.owner[path[0]] = cell
    for j in range(length):
        _refresh(tumour, tumour.owner[path[j]])


@njit
def _divide(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: Array,
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
    mother_may = _bring_up(tumour, powers, w, steps) >= threshold
    daughter_may = _bring_up(tumour, powers, v, steps) >= threshold
    p = 0.0
    if mother_may or daughter_may:
        p = reentry_probability(lattice, tumour, pattern, rng, parameters, v)
    tumour.cycling[daughter] = daughter_may and uniform(rng) <= p
    tumour.cycling[mother] = mother_may and uniform(rng) <= p
    _refresh(tumour, daughter)
    _refresh(tumour, mother)


# ---- initial condition


@njit
def _seed_disc(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: Array,
) -> None:
    """Cells on every site nearer than R0 to the pattern's centre, cycling with probability (1 - q) P."""
    radius2 = parameters.initial_spheroid_radius**2
    for s in range(lattice.x.size):
        if squared_distance(lattice, s, pattern.centre) < radius2:
            cell = tumour.counts[CELLS]
            tumour.first[cell] = s
            tumour.owner[s] = cell
            tumour.counts[CELLS] = cell + 1
            _fill(lattice, tumour, powers, parameters, s, 0)
    for cell in range(tumour.counts[CELLS]):
        p = reentry_probability(lattice, tumour, pattern, rng, parameters, tumour.first[cell])
        p *= 1.0 - parameters.initial_quiescent_cell_fraction
        tumour.cycling[cell] = uniform(rng) < p
        _refresh(tumour, cell)


# ---- outputs


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
def _update_rim(lattice: Lattice, tumour: Tumour, profile: Profile) -> None:
    """Bring the rim up to the present occupancy."""
    profile.sites[0] = tumour.counts[FULL]
    size = 0
    for s in range(lattice.x.size):
        if s % lattice.side == 0:
            profile.start[s // lattice.side] = size
        if tumour.owner[s] < 0:
            if tumour.empties[s] < lattice.ptr[s + 1] - lattice.ptr[s]:
                profile.points[size] = s
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
def _find_nearest(lattice: Lattice, profile: Profile, s: int) -> None:
    """Set the rim point nearest to s, searching columns outward from its own.

    It stays the nearest empty one until it is filled: the empty site nearest to an occupied one is
    a rim point, for on a Delaunay triangulation some neighbour comes nearer. And where the wall is
    nearer than any empty site it stays so.
    """
    column = s // lattice.side
    best, nearest = profile.wall2[s], WALL
    for k in range(lattice.side):
        gap = max(k - 1, 0)  # a column k away is at least k - 1 away
        if gap * gap >= best:
            break
        for c in (column - k, column + k):
            if 0 <= c < lattice.side:
                for i in range(profile.start[c], profile.start[c + 1]):
                    d2 = squared_distance(lattice, s, profile.points[i])
                    if d2 < best:
                        best, nearest = d2, profile.points[i]
    profile.nearest[s] = nearest
    profile.empty2[s] = best


@njit
def _depth(lattice: Lattice, tumour: Tumour, profile: Profile, s: int) -> float:
    """Distance from s to the rim in lattice units."""
    nearest = profile.nearest[s]
    if nearest == NOT_SOUGHT or (nearest >= 0 and tumour.owner[nearest] >= 0):
        _find_nearest(lattice, profile, s)
    return np.sqrt(min(profile.empty2[s], profile.wall2[s]))


@njit
def _take_picture(
    lattice: Lattice, tumour: Tumour, powers: Powers, profile: Profile, steps: int
) -> None:
    """Add every cell to the bins of its distance to the rim: a band one diameter wide."""
    if profile.sites[0] < tumour.counts[FULL]:
        _update_rim(lattice, tumour, profile)
    for cell in range(tumour.counts[CELLS]):
        s = tumour.first[cell]
        distance = UM_PER_UNIT * _depth(lattice, tumour, profile, s)
        low = min(max(0, int(distance - CELL_DIAMETER)), PROFILE_LENGTH)
        high = min(int(distance), PROFILE_LENGTH)
        if high > low:
            e = _bring_up(tumour, powers, s, steps)
            profile.cells[low] += 1
            profile.cells[high] -= 1
            profile.ecm[low] += e
            profile.ecm[high] -= e
            if tumour.cycling[cell] and not tumour.stuck[cell]:
                profile.cycling[low] += 1
                profile.cycling[high] -= 1


@njit
def _mean_profiles(profile: Profile, outputs: Outputs) -> None:
    cells, ecm, cycling = 0, 0.0, 0
    for i in range(PROFILE_LENGTH):
        cells += profile.cells[i]
        ecm += profile.ecm[i]
        cycling += profile.cycling[i]
        if cells > 0:
            outputs.ecm_profile[i] = max(ecm, 0.0) / cells
            outputs.proliferation_profile[i] = cycling / cells


@njit
def _take_snapshots(tumour: Tumour, powers: Powers, outputs: Outputs, shot: int, t: float) -> int:
    """Snapshots at all times before the event at t; the number of those taken so far."""
    while shot < outputs.snapshot_times.size and outputs.snapshot_times[shot] < t:
        steps = steps_until(outputs.snapshot_times[shot])
        for s in range(tumour.owner.size):
            cell = tumour.owner[s]
            outputs.snapshot_cell[shot, s] = cell
            outputs.snapshot_ecm[shot, s] = ecm_at(tumour, powers, s, steps)
            if cell < 0:
                state = EMPTY
            elif tumour.stuck[cell]:
                state = STUCK
            elif tumour.cycling[cell] or tumour.second[cell] >= 0:
                state = CYCLING
            else:
                state = QUIESCENT
            outputs.snapshot_state[shot, s] = state
        shot += 1
    return shot


# ---- the run


@njit
def _next_mark(t: float) -> float:
    """The first output time after t: a whole day, or a whole hour of the profile day."""
    hour = max(np.floor(t) + 1.0, DAY * PROFILE_DAY)
    day = DAY * (np.floor(t / DAY) + 1.0)
    return min(day, hour) if hour <= DAY * (PROFILE_DAY + 1) else day


@njit
def _record(
    lattice: Lattice,
    tumour: Tumour,
    powers: Powers,
    profile: Profile,
    growth: Array,
    days: int,
    mark: float,
    t: float,
) -> int:
    """The event at t is the first one after `mark`: outputs show the state after it.

    ``days``: number of growth values so far; returns it as it is then.
    """
    if mark <= DAY * (PROFILE_DAY + 1) and t >= DAY * PROFILE_DAY:
        _take_picture(lattice, tumour, powers, profile, steps_until(t))
    due = min(int(t / DAY), growth.size)
    if days < due:
        growth[days:due] = rim_radius(lattice, tumour)
    return due


@njit
def _execute(
    lattice: Lattice,
    tumour: Tumour,
    pattern: Pattern,
    powers: Powers,
    parameters: Parameters,
    rng: Array,
    cell: int,
    steps: int,
) -> None:
    """The event of a cell's clock: division, growth, or the next stage."""
    if tumour.second[cell] >= 0:
        _divide(lattice, tumour, pattern, powers, parameters, rng, cell, steps)
    else:
        tumour.stage[cell] = 0
        _grow(lattice, tumour, pattern, powers, parameters, rng, cell, steps)


@numba.njit(cache=True, no_cfunc_wrapper=True, **_OPTIONS)
def simulate(
    lattice: Lattice,
    pattern: Pattern,
    parameters: Parameters,
    rng: Array,
    end_time: float,
    max_events: int,
    tumour: Tumour,
    powers: Powers,
    profile: Profile,
    outputs: Outputs,
) -> int:
    """One run from t = 0 to ``end_time`` (h); fills ``outputs`` and returns the number of events.

    ``rng``: state of xoshiro256++, uint64 (4,), changed. More than ``max_events`` events end the run
    early. The other arguments are fresh ones from the functions above.
    """
    _fill_powers(powers, parameters.ecm_degradation_rate)
    _seed_disc(lattice, tumour, pattern, powers, parameters, rng)
    rate = (STAGES + 1) * parameters.division_rate
    growth = outputs.growth
    events, days, shot = 0, 0, 0
    t_last, mark = 0.0, _next_mark(0.0)
    while events <= max_events:
        active = tumour.counts[ACTIVE]
        idle_rate = rate * tumour.counts[IDLE] + NULL_RATE
        t = t_last + exponential(rng, rate * active)

        shot = _take_snapshots(tumour, powers, outputs, shot, t)
        while mark < min(t, end_time):
            tick = mark + exponential(rng, idle_rate)
            if tick >= min(t, end_time):
                break
            days = _record(lattice, tumour, powers, profile, growth, days, mark, tick)
            t_last, mark = tick, _next_mark(tick)
        if t >= end_time:
            break

        events += 1
        cell = tumour.clocks[below(rng, active)]
        if tumour.second[cell] < 0 and tumour.stage[cell] < STAGES - 1:
            tumour.stage[cell] += 1
        else:
            last_tick = min(mark, t) - exponential(rng, idle_rate)
            steps = steps_until(max(t_last, last_tick))
            _execute(lattice, tumour, pattern, powers, parameters, rng, cell, steps)
        if mark < t:
            days = _record(lattice, tumour, powers, profile, growth, days, mark, t)
            mark = _next_mark(t)
        t_last = t
    if mark <= end_time:
        _record(lattice, tumour, powers, profile, growth, days, mark, end_time)
    _mean_profiles(profile, outputs)
    return events
