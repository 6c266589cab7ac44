"""Which cells have a running clock: all clocks tick at one rate, so an array of cells is enough."""

from __future__ import annotations

from simulators.tumor_spheroid.compiled import njit
from simulators.tumor_spheroid.state import ACTIVE, IDLE, IDLE_CLOCK, NO_CLOCK, STAGES, Tumour


@njit
def wind(tumour: Tumour, cell: int) -> None:
    """A cell on one site grows at the tenth tick of its clock, a cell on two divides at the first."""
    tumour.ticks[tumour.slot[cell]] = STAGES if tumour.second[cell] < 0 else 1


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
    wind(tumour, cell)


@njit
def stop_clock(tumour: Tumour, cell: int, becomes: int) -> None:
    """The cell's clock stops (becomes = NO_CLOCK) or only ticks (becomes = IDLE_CLOCK)."""
    slot = tumour.slot[cell]
    if slot >= 0:
        last = tumour.counts[ACTIVE] - 1
        moved = tumour.clocks[last]
        tumour.clocks[slot] = moved
        tumour.ticks[slot] = tumour.ticks[last]
        tumour.slot[moved] = slot
        tumour.counts[ACTIVE] = last
    elif slot == IDLE_CLOCK:
        tumour.counts[IDLE] -= 1
    if becomes == IDLE_CLOCK:
        tumour.counts[IDLE] += 1
    tumour.slot[cell] = becomes


@njit
def refresh(tumour: Tumour, cell: int) -> None:
    """A stuck cell beside an empty site is freed; division, growth or no clock, by its state."""
    first, second = tumour.first[cell], tumour.second[cell]
    if tumour.stuck[cell] and (
        tumour.empties[first] > 0 or (second >= 0 and tumour.empties[second] > 0)
    ):
        tumour.stuck[cell] = False
    if second >= 0 or (tumour.cycling[cell] and not tumour.stuck[cell]):
        _start_clock(tumour, cell)
    else:
        stop_clock(tumour, cell, NO_CLOCK)
