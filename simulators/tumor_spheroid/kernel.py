"""The tumour spheroid's kernel: one run of the model, compiled by Numba.

`growth.py` what a cell does, with `clocks.py` when and `search.py` where; `matrix.py` the extracellular
matrix; `rim.py` and `output.py` what is seen of it; `state.py` the arrays; here the order of events.

The model. Cells sit on the sites of a fixed lattice. A cell on one site that is *cycling* passes
through ten stages and then takes a second site (growth); a cell on two sites divides. Every stage
and the division last an exponential time of rate r = 11 k, so a cycle is Erlang(11, 11 k). At
division mother and daughter decide once and for all whether they go on: with probability
P = exp(-13.54 um * distance to a free site / D), and only where the extracellular matrix (ECM)
reaches a threshold. ECM is made by every cell on its site and the neighbours, and decays.

What makes it fast, without changing the law of any output but for the exception below:

* All clocks have one rate, so the next event is a uniformly random entry of an array, and most events
  only count down the ticks that are left there.
* A site never becomes empty again. Hence the first shell of the search pattern with an empty site
  only moves outward, and each search goes on where the last one at that site stopped; and the rim
  point nearest to a site stays the nearest until it is filled, and the next one is no farther than
  that of the site before.
* A cell that found no free site fails again until it is pushed. Its clock and the null event only
  mark times: together they are a Poisson process, of which only the first tick after an output time
  and the last tick before a division are needed, and both are exponential.
* The ECM has no diffusion. A site keeps (value, step, source) and is brought up to date when its
  source changes, when a division asks or when a profile is taken, by m Euler steps at once.
* Profile bands are added as differences and summed once.

The exception: a cell that was stuck and is freed by a push begins its cycle anew; in the original it is
somewhere within one. That happens to 5 of 10 000 cells at the default parameters.
"""

from __future__ import annotations

import numpy as np

from simulators.tumor_spheroid.clocks import wind
from simulators.tumor_spheroid.compiled import entry_point, njit
from simulators.tumor_spheroid.growth import divide, grow, seed_disc
from simulators.tumor_spheroid.lattice import Lattice, Pattern
from simulators.tumor_spheroid.matrix import fill_powers, steps_until
from simulators.tumor_spheroid.output import mean_profiles, take_picture, take_snapshots
from simulators.tumor_spheroid.rim import rim_radius
from simulators.tumor_spheroid.state import (
    ACTIVE,
    DAY,
    IDLE,
    NULL_RATE,
    PROFILE_DAY,
    STAGES,
    Outputs,
    Parameters,
    Powers,
    Profile,
    Tumour,
)
from simulators.tumor_spheroid.xoshiro import below, exponential


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
    growth: np.ndarray,
    days: int,
    mark: float,
    t: float,
) -> int:
    """The event at t is the first one after `mark`: outputs show the state after it.

    ``days``: number of growth values so far; returns it as it is then.
    """
    if mark <= DAY * (PROFILE_DAY + 1) and t >= DAY * PROFILE_DAY:
        take_picture(lattice, tumour, powers, profile, steps_until(t))
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
    rng: np.ndarray,
    cell: int,
    steps: int,
) -> None:
    """The event of a cell's clock, division or growth; a clock that goes on is wound up again."""
    if tumour.second[cell] >= 0:
        divide(lattice, tumour, pattern, powers, parameters, rng, cell, steps)
    else:
        grow(lattice, tumour, pattern, powers, parameters, rng, cell, steps)
    if tumour.slot[cell] >= 0:
        wind(tumour, cell)


@entry_point
def simulate(
    lattice: Lattice,
    pattern: Pattern,
    parameters: Parameters,
    rng: np.ndarray,
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
    fill_powers(powers, parameters.ecm_degradation_rate)
    seed_disc(lattice, tumour, pattern, powers, parameters, rng)
    rate = (STAGES + 1) * parameters.division_rate
    growth = outputs.growth
    events, days, shot = 0, 0, 0
    t_last, mark = 0.0, _next_mark(0.0)
    while events <= max_events:
        active = tumour.counts[ACTIVE]
        idle_rate = rate * tumour.counts[IDLE] + NULL_RATE
        t = t_last + exponential(rng, rate * active)

        shot = take_snapshots(tumour, powers, outputs, shot, t)
        while mark < min(t, end_time):
            tick = mark + exponential(rng, idle_rate)
            if tick >= min(t, end_time):
                break
            days = _record(lattice, tumour, powers, profile, growth, days, mark, tick)
            t_last, mark = tick, _next_mark(tick)
        if t >= end_time:
            break

        events += 1
        slot = below(rng, active)
        tumour.ticks[slot] -= 1
        if tumour.ticks[slot] == 0:
            last_tick = min(mark, t) - exponential(rng, idle_rate)
            steps = steps_until(max(t_last, last_tick))
            cell = tumour.clocks[slot]
            _execute(lattice, tumour, pattern, powers, parameters, rng, cell, steps)
        if mark < t:
            days = _record(lattice, tumour, powers, profile, growth, days, mark, t)
            mark = _next_mark(t)
        t_last = t
    if mark <= end_time:
        _record(lattice, tumour, powers, profile, growth, days, mark, end_time)
    mean_profiles(profile, outputs)
    return events
