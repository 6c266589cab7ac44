"""The simulations of ABC on disk, by generation: what a repeat takes up, and what can be exported.

    generations/T.npz    T is 0 for the calibration, t + 1 for generation t

    number (k,)          of each simulation, from 0
    outcome (k,)         as in the store
    accepted (k,)        whether it is a particle
    theta (k, D)         in pyABC's coordinates; NaN where the simulation has no outputs
    weight, distance (k,)    of pyABC
    message (k,)         of those that failed
    x/NAME, x/NAME/shape outputs one after another, and the shape of each

Everything random about a simulation follows from (seed, generation, number). A repeat gives pyABC the simulations
that are there, in the same order, and so comes to the same particles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyabc
from pyabc.population import Particle

from pipeline.errors import DamagedError
from pipeline.files import read_arrays, write_arrays
from pipeline.progress import log
from pipeline.store import Outcome

if TYPE_CHECKING:
    from pipeline.abc.sampler import ParticleResult

Results = Mapping[int, "ParticleResult"]


@dataclass(frozen=True)
class Kept:
    """The simulations of one ABC run.

    Arguments:
        folder: of their files.
        labels: of pyABC's coordinates.
    """

    folder: Path
    labels: Sequence[str]

    def path(self, generation: int) -> Path:
        """Return where a generation is kept; -1 is the calibration."""
        return self.folder / f"{generation + 1}.npz"

    def write(self, generation: int, results: Results) -> None:
        """Keep the results of a generation, complete or not."""
        if not results:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = [results[number] for number in sorted(results)]
        with_outputs = [r.particle for r in found if r.particle is not None]
        theta = np.full((len(found), len(self.labels)), np.nan)
        for row, result in zip(theta, found, strict=True):
            if result.particle is not None:
                row[:] = [result.particle.parameter[label] for label in self.labels]
        arrays = {
            "number": np.array(sorted(results)),
            "outcome": np.array([int(r.outcome) for r in found], np.int8),
            "accepted": np.array([r.accepted for r in found]),
            "theta": theta,
            "weight": np.array([r.particle.weight if r.particle else np.nan for r in found]),
            "distance": np.array([r.particle.distance if r.particle else np.nan for r in found]),
            "message": np.array([r.message for r in found], dtype=np.str_),
        }
        names = sorted(with_outputs[0].sum_stat) if with_outputs else []
        for name in names:
            values = [np.asarray(particle.sum_stat[name]) for particle in with_outputs]
            arrays[f"x/{name}"] = np.concatenate([value.ravel() for value in values])
            arrays[f"x/{name}/shape"] = np.array([value.shape for value in values], np.int64)
        write_arrays(self.path(generation), arrays)

    def read(self, generation: int) -> dict[int, ParticleResult]:
        """Return the results of a generation so far; none where there are none, or they are damaged."""
        from pipeline.abc.sampler import ParticleResult

        try:
            arrays = read_arrays(self.path(generation))
        except FileNotFoundError:
            return {}
        except DamagedError as error:
            log(f"abc: {error}; simulated again")
            return {}
        outputs = _outputs(arrays)
        results, position = {}, 0
        for k, number in enumerate(arrays["number"].tolist()):
            particle = None
            accepted = bool(arrays["accepted"][k])
            if not np.isnan(arrays["distance"][k]):
                parameter = dict(zip(self.labels, arrays["theta"][k].tolist(), strict=True))
                particle = Particle(
                    m=0,
                    parameter=pyabc.Parameter(parameter),
                    weight=float(arrays["weight"][k]),
                    sum_stat={name: values[position] for name, values in outputs.items()},
                    distance=float(arrays["distance"][k]),
                    accepted=accepted,
                )
                position += 1
            outcome = Outcome(int(arrays["outcome"][k]))
            message = str(arrays["message"][k])
            results[number] = ParticleResult(outcome, accepted, particle, message)
        return results


def rows(folder: Path, simulator: Any) -> dict[str, np.ndarray]:
    """Return all simulations of an ABC run that gave outputs, in the order of generations and numbers.

    Their parameters follow the prior in generations 0 and 1 and narrow down afterwards: a network that is
    trained on the later ones has to know that.

    Arguments:
        folder: of the ABC run.
        simulator: of `simulators.load`.

    Returns:
        `theta` (k, D) in natural units, `generation` and `number` (k,), `accepted` and `distance` (k,), and each
        output as `x/NAME` (k, ...).

    Raises:
        FileNotFoundError: no simulation is kept there.
        ValueError: outputs have different lengths.
    """
    from pipeline.abc.model import Coordinates

    found, coordinates = [], Coordinates(simulator.prior)
    paths = sorted((folder / "generations").glob("*.npz"), key=lambda path: int(path.stem))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no simulations of ABC")
    for path in paths:
        arrays = read_arrays(path)
        good = ~np.isnan(arrays["distance"])
        part = {"theta": coordinates.natural(arrays["theta"][good])}
        part |= {name: arrays[name][good] for name in ("number", "accepted", "distance")}
        part["generation"] = np.full(int(good.sum()), int(path.stem))
        part |= {f"x/{name}": np.stack(values) for name, values in _outputs(arrays).items()}
        found.append(part)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _outputs(arrays: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
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
