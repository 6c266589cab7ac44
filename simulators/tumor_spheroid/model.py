"""The tumour spheroid as a simulator: seven parameters, a growth curve and two radial profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulators.distribution import LogUniform
from simulators.factory import simulator
from simulators.tumor_spheroid import state
from simulators.tumor_spheroid.kernel import simulate
from simulators.tumor_spheroid.lattice import (
    SEED,
    SIDE,
    Lattice,
    Pattern,
    lattice,
    search_pattern,
)

VALID = {
    "division_rate": (0.0, 1.0),
    "initial_quiescent_cell_fraction": (0.0, 1.0),
    "division_depth": (0.1, 1e6),
    "ecm_production_rate": (0.0, 1e3),
    "ecm_degradation_rate": (0.0, 10.0),
    "ecm_division_threshold": (0.0, 1e9),
}
PROFILE_END = state.DAY * (state.PROFILE_DAY + 1)  # h
MAX_END_TIME = 1e5  # h


def grow(
    sites: Lattice,
    pattern: Pattern,
    parameters: state.Parameters,
    rng: Generator,
    end_time: float,
    snapshot_times: NDArray[np.float64],
) -> tuple[state.Outputs, state.Tumour, int]:
    """One run of the kernel: its outputs, the tumour at the end and the number of events.

    No cell has a higher rate than r = 11 k and no site more than one cell, which bounds the events;
    RuntimeError past ten standard deviations above the mean of that bound.
    """
    mean_events = (state.STAGES + 1) * parameters.division_rate * sites.x.size * end_time
    max_events = int(mean_events + 10 * math.sqrt(mean_events)) + 1000
    tumour = state.new_tumour(sites)
    outputs = state.new_outputs(sites, end_time, snapshot_times)
    events = simulate(
        sites,
        pattern,
        parameters,
        rng.integers(0, 2**64, size=4, dtype=np.uint64),
        end_time,
        max_events,
        tumour,
        state.new_powers(end_time),
        state.new_profile(sites),
        outputs,
    )
    if events > max_events:
        raise RuntimeError(f"more than {max_events} events at {parameters}")
    return outputs, tumour, events


@simulator(
    name="tumor_spheroid",
    prior={
        "division_rate": LogUniform(1e-3, 1e-1),
        "initial_spheroid_radius": LogUniform(1.0, 10**1.2),
        "initial_quiescent_cell_fraction": LogUniform(1e-5, 1.0),
        "division_depth": LogUniform(10.0, 1000.0),
        "ecm_production_rate": LogUniform(1e-5, 1.0),
        "ecm_degradation_rate": LogUniform(1e-5, 1.0),
        "ecm_division_threshold": LogUniform(1e-5, 1.0),
    },
)
class TumorSpheroid:
    """A two-dimensional tumour spheroid of single cells in an extracellular matrix (ECM).

    The model: Jagiella, Rickert, Theis, Hasenauer, Parallelization and High-Performance Computing
    Enables Automated Statistical Inference of Multi-scale Models (2017, Cell Systems 4:194-206), in
    the configuration of pyABC's example `multiscale_agent_based`, whose prior this is; it is also
    that of Consistency Models for Scalable and Fast Simulation-Based Inference (2023,
    arXiv 2312.05440).

    Arguments:
        side: sites per row of the square lattice, about one cell diameter apart; 100 is the
            original's domain of 1354 um, whose hard border the default tumour reaches at day 16.
        lattice_seed: seed of the lattice; (100, 0) is the original's.
        centre: site in the middle of the initial disc; None is a random neighbour of the middle
            site, as in the original.
        end_time: hours simulated, at least 432 (the end of day 17).
        snapshot_times: hours, ascending, at which every site is recorded.

    Raises: ValueError naming argument, value and what is valid.
    """

    def __init__(
        self,
        side: int = SIDE,
        lattice_seed: int = SEED,
        centre: int | None = None,
        end_time: float = 500.0,
        snapshot_times: Sequence[float] = (),
    ) -> None:
        self.side, self.lattice_seed, self.centre = side, lattice_seed, centre
        self.lattice = lattice(side, lattice_seed)
        if centre is not None and not (isinstance(centre, int) and 0 <= centre < side * side):
            raise ValueError(f"centre={centre!r} is not a site of the lattice, 0 .. {side**2 - 1}")
        if not PROFILE_END <= end_time <= MAX_END_TIME:
            raise ValueError(f"end_time={end_time!r} is not in [{PROFILE_END}, {MAX_END_TIME}] h")
        times = np.array(snapshot_times, dtype=float)
        if times.ndim != 1 or not ((times >= 0) & (times <= end_time)).all():
            raise ValueError(f"snapshot_times={snapshot_times!r} are not in [0, {end_time}] h")
        if (np.diff(times) <= 0).any():
            raise ValueError(f"snapshot_times={snapshot_times!r} are not ascending")
        self.end_time, self.snapshot_times = float(end_time), times
        self._compile()

    def simulate(
        self,
        division_rate: float = 0.0417,
        initial_spheroid_radius: float = 12.0,
        initial_quiescent_cell_fraction: float = 0.75,
        division_depth: float = 100.0,
        ecm_production_rate: float = 0.005,
        ecm_degradation_rate: float = 0.0008,
        ecm_division_threshold: float = 0.01,
        *,
        rng: Generator,
    ) -> dict[str, NDArray]:
        """Grow one spheroid.

        Arguments:
            division_rate: k, inverse mean cell-cycle time, 1/h.
            initial_spheroid_radius: R0, radius of the initial disc, lattice units (13.5 um).
            initial_quiescent_cell_fraction: q, share of the initial cells that never cycle.
            division_depth: D, decay length of the re-entry probability, um.
            ecm_production_rate: p_e, per cell, 1/h.
            ecm_degradation_rate: d_e, 1/h.
            ecm_division_threshold: e*, smallest ECM at which a cell re-enters the cycle.
            rng: source of all random numbers.

        Raises: ValueError naming parameter, value and valid range.

        Returns: `growth_curve` (20,), radius of the rim in um after every day;
            `extra_cellular_matrix_profile` and `proliferation_profile` (1000,), mean ECM and share of
            cycling cells by distance to the rim in whole um, averaged over day 17, 0 where there is
            no cell; with snapshots also `snapshot_cell` (times, sites), -1 where there is none,
            `snapshot_state`, 0 empty, 1 quiescent, 2 cycling, 3 stuck, and `snapshot_ecm`.
        """
        parameters = state.Parameters(
            division_rate,
            initial_spheroid_radius,
            initial_quiescent_cell_fraction,
            division_depth,
            ecm_production_rate,
            ecm_degradation_rate,
            ecm_division_threshold,
        )
        self._check(parameters)
        outputs = self._run(parameters, rng)
        x = {
            "growth_curve": outputs.growth,
            "extra_cellular_matrix_profile": outputs.ecm_profile,
            "proliferation_profile": outputs.proliferation_profile,
        }
        if self.snapshot_times.size:
            x["snapshot_cell"] = outputs.snapshot_cell
            x["snapshot_state"] = outputs.snapshot_state
            x["snapshot_ecm"] = outputs.snapshot_ecm
        return x

    def _compile(self) -> None:
        """Compile the kernel, or load it from Numba's cache: not in the first simulation's time."""
        self._run(state.Parameters(0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0), np.random.default_rng(0))

    def _check(self, parameters: state.Parameters) -> None:
        for name, value in parameters._asdict().items():
            low, high = VALID.get(name, (0.0, self.side / 2))
            if not low <= value <= high or (name not in VALID and value == 0):
                bracket = "[" if name in VALID else "("
                raise ValueError(f"{name}={value!r} is not in {bracket}{low:g}, {high:g}]")

    def _run(self, parameters: state.Parameters, rng: Generator) -> state.Outputs:
        centre = self.centre
        if centre is None:
            candidates = self.lattice.neighbours_of(self.lattice.middle)
            centre = int(candidates[rng.integers(candidates.size)])
        pattern = search_pattern(self.side, self.lattice_seed, centre)
        return grow(self.lattice, pattern, parameters, rng, self.end_time, self.snapshot_times)[0]
