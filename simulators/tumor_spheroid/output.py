"""What a run records beside the growth curve: pictures for the two profiles, and snapshots."""

from __future__ import annotations

from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.lattice import Lattice
from simulators.tumor_spheroid.matrix import bring_up, ecm_at, steps_until
from simulators.tumor_spheroid.rim import depth, update_rim
from simulators.tumor_spheroid.state import (
    CELL_DIAMETER,
    CYCLING,
    EMPTY,
    FULL,
    NOT_SOUGHT,
    PROFILE_LENGTH,
    QUIESCENT,
    STUCK,
    UM_PER_UNIT,
    Outputs,
    Powers,
    Profile,
    Tumour,
)


@njit
def take_picture(
    lattice: Lattice, tumour: Tumour, powers: Powers, profile: Profile, steps: int
) -> None:
    """Add every cell to the bins of its distance to the rim: a band one diameter wide."""
    if profile.sites[0] < tumour.counts[FULL]:
        update_rim(lattice, tumour, profile)
    hint = NOT_SOUGHT
    for s in range(tumour.owner.size):
        cell = tumour.owner[s]
        if cell < 0 or tumour.first[cell] != s:
            continue
        distance = UM_PER_UNIT * depth(lattice, tumour, profile, s, hint)
        hint = profile.nearest[s]
        low = min(max(0, int(distance - CELL_DIAMETER)), PROFILE_LENGTH)
        high = min(int(distance), PROFILE_LENGTH)
        if high > low:
            e = bring_up(tumour, powers, s, steps)
            profile.cells[low] += 1
            profile.cells[high] -= 1
            profile.ecm[low] += e
            profile.ecm[high] -= e
            if tumour.cycling[cell] and not tumour.stuck[cell]:
                profile.cycling[low] += 1
                profile.cycling[high] -= 1


@njit
def mean_profiles(profile: Profile, outputs: Outputs) -> None:
    cells, ecm, cycling = 0, 0.0, 0
    for i in range(PROFILE_LENGTH):
        cells += profile.cells[i]
        ecm += profile.ecm[i]
        cycling += profile.cycling[i]
        if cells > 0:
            outputs.ecm_profile[i] = max(ecm, 0.0) / cells
            outputs.proliferation_profile[i] = cycling / cells


@njit
def take_snapshots(tumour: Tumour, powers: Powers, outputs: Outputs, shot: int, t: float) -> int:
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
