"""Rows of several stores together, and a training on them as a run of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import stages
from pipeline.config import Config, flat
from pipeline.imported.stage import Pairs
from pipeline.imported.stage import configure as configure_pairs
from pipeline.results import Results
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import Store, to_numpy
from pipeline.store.observation import Observation, without_row


@dataclass(frozen=True)
class OkRows:
    """Rows of one store that are ok: theta (n, D), outputs (n, ...) and lengths (n,) of ragged ones, by name."""

    theta: np.ndarray
    x: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]

    def take(self, chosen: np.ndarray) -> OkRows:
        """Return the rows at positions or where a mask (n,) is true."""
        x = {name: values[chosen] for name, values in self.x.items()}
        return OkRows(self.theta[chosen], x, {k: v[chosen] for k, v in self.lengths.items()})


def read_part(store: Store, most: int | None, simulator: Any) -> OkRows:
    """Return the rows of a store below an id, with what is observed of their outputs."""
    ids, theta, x, lengths = to_numpy(store, most)
    observe = Observation.of(simulator, store.identity)
    return OkRows(theta, without_row(x) if observe is None else observe(x, ids), lengths)


def joined(parts: Sequence[OkRows], prior: Any) -> Pairs:
    """Return parts one after the other."""
    x = {name: _joined([part.x[name] for part in parts]) for name in parts[0].x}
    lengths = {n: np.concatenate([part.lengths[n] for part in parts]) for n in parts[0].lengths}
    theta = np.concatenate([part.theta for part in parts])
    return Pairs(tuple(prior.names), theta, x, lengths, prior.spec())


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return rows one after the other; outputs of varying length are padded to the longest."""
    if len({part.shape[1:] for part in parts}) > 1:
        longest = max(part.shape[1] for part in parts)
        wide = [(0, 0)] * (parts[0].ndim - 2)
        parts = [np.pad(p, [(0, 0), (0, longest - p.shape[1]), *wide]) for p in parts]
    return np.concatenate(parts)


def trained(config: Config, run: RunDirectory, pairs: Pairs, stop: Stop, **train: Any) -> Any:
    """Train on rows as a run of their own; return the posterior.

    Arguments:
        config: whose estimator, settings of the training and seed are taken over.
        run: of the rows; a repeat continues it.
        pairs: the rows.
        stop: request to leave.
        train: settings of the training that are others.
    """
    values = config.plain()
    settings = {**values["train"], **train}
    kept = flat({"estimator": values["estimator"], "train": settings, "seed": values["seed"]})
    words = [f"{key}={json.dumps(value)}" for key, value in kept.items()]
    run.path.mkdir(parents=True, exist_ok=True)
    with run.lock():
        own = configure_pairs(pairs, run, 0, words)
        stages.import_simulations(own, run, pairs)
        result = stages.train(own, run, stop)
    return Results(run, result.key).load()
