"""What a simulation stage fills: the store of a stream, or one whose parameters are listed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import canonical_text
from pipeline.simulate.spec import SimulationSpec
from pipeline.streams import RunStream

UNITS = {"train": "simulations", "test": "test simulations"}


@dataclass(frozen=True)
class Target:
    """A store and what is to be in it.

    Attributes:
        name: of the stream, for messages and events.
        spec: what all simulations have in common.
        path: folder of the store.
        budget: number of simulations, a total.
    """

    name: str
    spec: SimulationSpec
    path: Path
    budget: int

    @property
    def unit(self) -> str:
        """What is counted while it is filled."""
        return UNITS.get(self.name, f"{self.name} simulations")


@dataclass(frozen=True)
class ListedSpec(SimulationSpec):
    """Simulations whose parameters are listed, such as posterior draws.

    Attributes:
        parameters: of the ids 0..n-1, shape (n, D).
        proposal: what the parameters follow from, JSON; part of the store's identity.
    """

    parameters: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    proposal: Mapping[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> dict[str, Any]:
        return {"proposal": dict(self.proposal)}

    def _parameters(self, key: int) -> np.ndarray:
        first = key * self.key_size
        rows = self.parameters[first : first + self.key_size]
        return np.resize(rows, (self.key_size, rows.shape[1]))  # the last block may lack some

    def _data_rows(self, key: int) -> np.ndarray:
        return np.full(self.key_size, -1)


def listed(
    config: Any,
    simulator: Any,
    parameters: np.ndarray,
    proposal: Mapping[str, Any],
    grows: bool = False,
) -> ListedSpec:
    """Return the specification of simulations at listed parameters.

    Their noise is independent of that of all other simulations: its seed follows from the proposal.

    Arguments:
        config: the configuration of the run.
        simulator: makes the rows.
        parameters: shape (n, D), natural units.
        proposal: what they follow from, JSON; the checksum of the parameters is added unless the list grows.
        grows: whether more parameters may follow later from the same proposal.
    """
    theta = np.ascontiguousarray(parameters, np.float64)
    origin = dict(proposal)
    if not grows:
        origin["parameters"] = hashlib.sha256(theta.tobytes()).hexdigest()
    text = canonical_text([config.seed, origin]).encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    size = config.simulate.block if simulator.batched else 1
    return ListedSpec(
        simulator, seed, RunStream.LISTED, size, config.simulate.timeout,
        parameters=theta, proposal=origin,
    )  # fmt: skip
