"""What an observation is compared with: simulations of the run that trained the posterior, and others."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from estimators import OutOfRangeWarning
from estimators.outputs import MASK
from pipeline.config import Config
from pipeline.run import STREAMS, RunDirectory
from pipeline.store import Store
from pipeline.store.observation import Observation
from pipeline.train.dataset import Table, validates

MOST = 2000  # simulations of either kind


@dataclass(frozen=True)
class SimulatedRows:
    """Simulations as the posterior takes them: `theta` (n, D) and `x` {name: (n, ...)}."""

    theta: np.ndarray
    x: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def flat(self) -> np.ndarray:
        """All outputs side by side, shape (n, E)."""
        return flattened(self.x)


@dataclass(frozen=True)
class Evidence:
    """Simulations of a run: those that trained the posterior, and those that did not."""

    train: SimulatedRows
    held_out: SimulatedRows

    def like(self, x: dict[str, np.ndarray]) -> Evidence:
        """Return the simulations without the elements that are absent from an observation, each array (1, ...)."""
        train, held_out = self.train, self.held_out
        return Evidence(
            SimulatedRows(train.theta, hidden(train.x, x)),
            SimulatedRows(held_out.theta, hidden(held_out.x, x)),
        )


def hidden(outputs: dict[str, np.ndarray], x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return outputs (n, ...) by name, NaN where those of an observation (1, ...) are."""
    if all(present(x)):
        return outputs
    return {
        name: np.where(np.isnan(x[name]), np.float32("nan"), values)
        for name, values in outputs.items()
    }


def present(x: dict[str, np.ndarray]) -> np.ndarray:
    """Return which elements of an observation, each array (1, ...), are no NaN, in the order of `flattened`."""
    return ~np.isnan(flattened(x)[0])


def flattened(x: dict[str, np.ndarray]) -> np.ndarray:
    """Return outputs by name, each (n, ...), side by side as (n, E); masks are left out."""
    parts = [x[name] for name in output_names(x)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).astype(float)


def output_names(x: dict[str, Any]) -> list[str]:
    """Return the names of the outputs, sorted, without those of masks."""
    return [n for n in sorted(x) if not (n.endswith(MASK) and n.removesuffix(MASK) in x)]


def element_names(x: dict[str, np.ndarray]) -> list[str]:
    """Return a name for each element of outputs by name, each (n, ...), in the order of `flattened`."""
    names = []
    for name in output_names(x):
        shape = x[name].shape[1:]
        if not shape:
            names.append(name)
        for index in np.ndindex(*shape) if shape else ():
            names.append(f"{name}[{', '.join(map(str, index))}]")
    return names


def evidence(config: Config, run: RunDirectory, simulator: Any, posterior: Any) -> Evidence:
    """Read simulations of a run: training rows, and test and validation rows together."""
    budget = int(posterior.provenance.get("budget", config.budget))
    train, validation = _stream(run, STREAMS[0], budget, simulator, posterior, config)
    test, _ = _stream(run, STREAMS[1], config.test, simulator, posterior, None)
    held_out = [part for part in (test, validation) if len(part)] or [validation]
    joined = {k: np.concatenate([part.x[k] for part in held_out]) for k in held_out[0].x}
    theta = np.concatenate([part.theta for part in held_out])
    return Evidence(train, SimulatedRows(theta, joined))


def _stream(
    run: RunDirectory,
    stream: str,
    budget: int,
    simulator: Any,
    posterior: Any,
    config: Config | None,
) -> tuple[SimulatedRows, SimulatedRows]:
    """Return rows of a stream, and apart from them those that validate."""
    path, shapes = run.store(stream), posterior.x_shapes
    nothing = SimulatedRows(
        np.zeros((0, len(posterior.names))), {k: np.zeros((0, *s)) for k, s in shapes.items()}
    )
    if not budget or not (path / "store.json").exists():
        return nothing, nothing
    store = Store.open(path).snapshot()
    if not store.counts(budget)["ok"]:
        return nothing, nothing
    observation = Observation.of(simulator, store.identity)
    table = Table.of(store, budget, 0.0, observation)
    table = dataclasses.replace(table, shapes={name: shapes[name] for name in table.shapes})
    ids = np.sort(table.ranges.ids())
    held = validates(ids, config.train.validation) if config else np.zeros(len(ids), bool)

    def rows(chosen: np.ndarray) -> SimulatedRows:
        if not len(chosen):
            return nothing
        batch = table.gather(chosen[:MOST])
        return SimulatedRows(batch.theta.numpy(), {k: v.numpy() for k, v in batch.x.items()})

    return rows(ids[~held]), rows(ids[held])


def summaries(posterior: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    """Return the posterior's summaries of outputs, shape (n, F)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        found = np.asarray(posterior.summary(x).cpu().numpy(), float)
    return np.nan_to_num(found, nan=0.0)  # absent elements are NaN in all rows
