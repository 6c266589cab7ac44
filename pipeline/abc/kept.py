"""The simulations of ABC on disk, by generation: what a repeat takes up.

    generations/T.npz    T is 0 for the calibration, t + 1 for generation t

    number (k,)          of each simulation, from 0
    outcome (k,)         as in the store
    accepted (k,)        whether it is a particle
    theta (k, D)         in pyABC's coordinates; NaN where the simulation has no outputs
    weight, distance (k,)    of pyABC
    seconds (k,)         that each took
    message (k,)         of those that failed
    first ()             of a generation that is complete: the row of its first simulation in `store/`
    x/NAME, x/NAME/shape outputs one after another, and the shape of each; of one that is not complete

Everything random about a simulation follows from (seed, generation, number). A repeat gives pyABC the simulations
that are there, in the same order, and so comes to the same particles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyabc
from pyabc.population import Particle

from pipeline.abc.model import AbcPrior
from pipeline.abc.proposal import Proposal, read_first
from pipeline.abc.result import ParticleResult
from pipeline.abc.stored import StoredRows
from pipeline.errors import DamagedError
from pipeline.files import read_arrays, write_arrays
from pipeline.progress import log
from pipeline.store import Outcome, Store
from pipeline.store.observation import PROPOSAL

Results = Mapping[int, ParticleResult]


@dataclass(frozen=True)
class Kept:
    """The simulations of one ABC run.

    Arguments:
        folder: of their files.
        prior: of pyABC, with coordinates.
        stored: takes the rows of complete generations.
        first: what calibration and first generation are drawn from; None: the prior.
    """

    folder: Path
    prior: AbcPrior
    stored: StoredRows
    first: Proposal | None = None

    @classmethod
    def of(cls, folder: Path, simulator: Any) -> Kept:
        """Return what an ABC run in a folder has kept."""
        prior, store = AbcPrior(simulator.prior), folder / "store"
        there = (store / "store.json").exists()
        identity = Store.open(store).identity if there else {}
        stored = StoredRows(store, identity, frozenset(simulator.ragged))
        return cls(folder / "generations", prior, stored, read_first(folder, prior))

    def path(self, generation: int) -> Path:
        """Return where a generation is kept; -1 is the calibration."""
        return self.folder / f"{generation + 1}.npz"

    @property
    def labels(self) -> Sequence[str]:
        """Of pyABC's coordinates."""
        return self.prior.coordinates.labels

    def write(self, generation: int, results: Results) -> None:
        """Keep the results of a generation, complete or not."""
        if results:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_arrays(self.path(generation), self._columns(results) | _packed(results))

    def settle(
        self,
        generation: int,
        results: Sequence[ParticleResult],
        theta_of: Callable[[int], np.ndarray],
    ) -> None:
        """Move the outputs of a complete generation to the store.

        Arguments:
            generation: its number.
            results: those that count, in order.
            theta_of: parameters (D,) of a simulation by its number; for those without outputs.
        """
        first, known = self._first_id(generation), self._arrays(generation)
        if "first" in known and self.stored.holds(first + np.arange(len(results))):
            return
        theta = np.stack(
            [
                theta_of(k)
                if result.particle is None
                else self.prior.coordinates.theta(result.particle.parameter)
                for k, result in enumerate(results)
            ]
        )
        self.stored.add(first, results, theta, self.log_prob(generation, theta))
        columns = self._columns(dict(enumerate(results)))
        write_arrays(self.path(generation), columns | {"first": np.array(first)})

    def log_prob(self, generation: int, theta: np.ndarray) -> np.ndarray:
        """Return the log density of a generation's proposal at theta (n, D) in natural units, shape (n,)."""
        proposal = self.proposal(generation)
        if proposal is None:
            return np.asarray(self.prior.prior.log_prob(theta))
        return proposal.natural_log_prob(theta)

    def proposal(self, generation: int) -> Proposal | None:
        """Return what a generation was drawn from, once the one before is complete; None: the prior."""
        if generation < 1:
            return self.first
        before = self._arrays(generation - 1)
        chosen = before["accepted"]
        weight = before["weight"][chosen]
        return Proposal(self.prior, before["theta"][chosen], weight / weight.sum())

    def generations(self) -> list[tuple[int, int, int]]:
        """Return number, first row and number of rows of each generation whose rows are in the store."""
        found = []
        for generation in range(-1, len(list(self.folder.glob("*.npz"))) - 1):
            arrays = self._arrays(generation)
            if "first" not in arrays:
                break
            found.append((generation, int(arrays["first"]), len(arrays["number"])))
        return found

    def _first_id(self, generation: int) -> int:
        before = self._arrays(generation - 1) if generation >= 0 else {}
        return int(before["first"]) + len(before["number"]) if before else 0

    def _arrays(self, generation: int) -> dict[str, np.ndarray]:
        try:
            return read_arrays(self.path(generation))
        except FileNotFoundError:
            return {}

    def _columns(self, results: Results) -> dict[str, np.ndarray]:
        found = [results[number] for number in sorted(results)]
        theta = np.full((len(found), len(self.labels)), np.nan)
        for row, result in zip(theta, found, strict=True):
            if result.particle is not None:
                row[:] = [result.particle.parameter[label] for label in self.labels]
        return {
            "number": np.array(sorted(results)),
            "outcome": np.array([int(r.outcome) for r in found], np.int8),
            "accepted": np.array([r.accepted for r in found]),
            "theta": theta,
            "weight": np.array([r.particle.weight if r.particle else np.nan for r in found]),
            "distance": np.array([r.particle.distance if r.particle else np.nan for r in found]),
            "seconds": np.array([r.seconds for r in found], np.float32),
            "message": np.array([r.message for r in found], dtype=np.str_),
        }

    def read(self, generation: int) -> dict[int, ParticleResult]:
        """Return the results of a generation so far; none where there are none, or they are damaged."""
        try:
            arrays = self._arrays(generation)
            return self._results(arrays) if arrays else {}
        except DamagedError as error:
            log(f"abc: {error}; simulated again")
            return {}

    def _results(self, arrays: Mapping[str, np.ndarray]) -> dict[int, ParticleResult]:
        outputs = self._by_number(arrays)
        columns = ("number", "outcome", "accepted", "message")
        seconds = arrays.get("seconds", np.full(len(arrays["number"]), np.nan))
        results = {}
        for k, (number, kind, accepted, message) in enumerate(
            zip(*(arrays[name].tolist() for name in columns), strict=True)
        ):
            particle, measured = None, not np.isnan(arrays["distance"][k])
            if measured and number not in outputs:
                continue  # lost: simulated again
            if measured:
                z = dict(zip(self.labels, arrays["theta"][k].tolist(), strict=True))
                particle = Particle(
                    m=0,
                    parameter=pyabc.Parameter(z),
                    weight=float(arrays["weight"][k]),
                    sum_stat=outputs[number],
                    distance=float(arrays["distance"][k]),
                    accepted=accepted,
                )
            taken = float(seconds[k])
            results[number] = ParticleResult(Outcome(kind), accepted, particle, message, taken)
        return results

    def _by_number(self, arrays: Mapping[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
        """Return the outputs of each simulation that has any."""
        if "first" in arrays:
            first = int(arrays["first"])
            found = self.stored.outputs(first + np.arange(len(arrays["number"])))
            return {number - first: x for number, x in found.items()}
        numbers = arrays["number"][~np.isnan(arrays["distance"])].tolist()
        outputs = _unpacked(arrays)
        return {
            number: {name: values[k] for name, values in outputs.items()}
            for k, number in enumerate(numbers)
        }


def rows(folder: Path, simulator: Any) -> dict[str, np.ndarray]:
    """Return all simulations of an ABC run that gave outputs, in the order of generations and numbers.

    Their parameters follow `proposal_log_prob`, in the calibration and in generation 1 mostly the prior: a network
    that is trained on the later ones has to know that.

    Arguments:
        folder: of the ABC run.
        simulator: of `simulators.load`.

    Returns:
        `theta` (k, D) in natural units, `generation` and `number` (k,), `accepted` and `distance` (k,),
        `proposal_log_prob` (k,), and each output as `x/NAME` (k, ...).

    Raises:
        FileNotFoundError: no simulation is kept there.
        ValueError: outputs have different lengths.
    """
    kept = Kept.of(folder, simulator)
    paths = sorted(kept.folder.glob("*.npz"), key=lambda path: int(path.stem))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no simulations of ABC")
    found = []
    for path in paths:
        arrays, generation = read_arrays(path), int(path.stem) - 1
        outputs = kept._by_number(arrays)
        good = np.isin(arrays["number"], list(outputs))
        theta = kept.prior.coordinates.natural(arrays["theta"][good])
        part = {"theta": theta, PROPOSAL: kept.log_prob(generation, theta)}
        part |= {name: arrays[name][good] for name in ("number", "accepted", "distance")}
        part["generation"] = np.full(len(theta), int(path.stem))
        each = [outputs[number] for number in arrays["number"][good].tolist()]
        part |= {f"x/{name}": np.stack([x[name] for x in each]) for name in each[0]}
        found.append(part)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _packed(results: Results) -> dict[str, np.ndarray]:
    """Return the outputs of all simulations that have any, one after another, with their shapes."""
    found = [results[number].particle for number in sorted(results)]
    outputs = [particle.sum_stat for particle in found if particle is not None]
    arrays = {}
    for name in sorted(outputs[0]) if outputs else []:
        values = [np.asarray(x[name]) for x in outputs]
        arrays[f"x/{name}"] = np.concatenate([value.ravel() for value in values])
        arrays[f"x/{name}/shape"] = np.array([value.shape for value in values], np.int64)
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the outputs of each simulation that has any."""
    outputs = {}
    for name in (key.removesuffix("/shape") for key in arrays if key.endswith("/shape")):
        shapes = arrays[f"{name}/shape"]
        ends = np.cumsum(np.prod(shapes, axis=1, dtype=np.int64))[:-1]
        parts = np.split(arrays[name], ends)
        outputs[name.removeprefix("x/")] = [
            part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
        ]
    return outputs
