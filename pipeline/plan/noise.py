"""A simulator's noise model tried on a few rows."""

from __future__ import annotations

import numpy as np

from pipeline.simulate.setup import identity
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Rows
from pipeline.store.observation import Observation


def observation_of(spec: SimulationSpec) -> Observation | None:
    """Return how the rows of a specification are observed, None where they are as the simulator gives them."""
    return Observation.of(spec.simulator, identity(spec))


def try_noise(spec: SimulationSpec, attempts: list[Rows]) -> tuple[list[str], list[str]]:
    """Observe the first rows twice with the same noise and once with other noise.

    Returns:
        what is wrong, and what is worth a note.
    """
    observation = observation_of(spec)
    ok = [rows for rows in attempts if not rows.outcome.any()]
    if observation is None or not ok:
        return [], []
    latent, ids = ok[0].x, ok[0].ids
    try:
        first, again, other = (observation(latent, ids, epoch) for epoch in (None, None, 0))
    except Exception as error:  # of the user's function
        return [f"observe: {type(error).__name__}: {error}"], []
    problems, notes = [], []
    if any(not np.array_equal(values, again[name]) for name, values in first.items()):
        problems.append("observe gave other outputs for the same seed: use only the generator")
    if all(np.array_equal(values, other[name]) for name, values in first.items()):
        notes.append("observe gave equal outputs for different seeds: it has no noise")
    shown = ", ".join(f"{name} {v.dtype} {v.shape[1:]}" for name, v in first.items())
    notes.append(f"the store keeps latent outputs; observed are {shown}")
    return problems, notes
