"""The simulations of an ABC run as rows of a store of their own.

Row `first + i` is simulation i of a generation, `first` the number of rows of all generations before, the
calibration included. Only simulations up to the last particle of a generation count: the rows, and their digest,
do not depend on the number of workers. The output `proposal_log_prob` is the log density by which the parameters
of the row were proposed, see `pipeline.abc.proposal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.abc.result import ParticleResult
from pipeline.simulate.spec import schema_of
from pipeline.store import Failure, Outcome, Rows, Schema, Store, Writer
from pipeline.store.observation import PROPOSAL, without_row
from pipeline.store.rows import concatenate
from pipeline.store.spool import SHARD_BYTES


@dataclass(frozen=True)
class StoredRows:
    """The store of an ABC run.

    Arguments:
        path: its folder.
        identity: of the store.
        ragged: outputs of varying length.
    """

    path: Path
    identity: Mapping[str, Any]
    ragged: frozenset[str]

    def add(
        self, first: int, results: Sequence[ParticleResult], theta: np.ndarray, log_q: np.ndarray
    ) -> None:
        """Commit a generation; rows that are there already stay as they are.

        Arguments:
            first: id of its first row.
            results: of its n simulations, of which one at least has outputs.
            theta: parameters (n, D), natural units.
            log_q: log density of their proposal, shape (n,).
        """
        store = Store.open_or_create(self.path, dict(self.identity), shard_bytes=SHARD_BYTES)
        rows = [self._row(first + k, result, theta[k]) for k, result in enumerate(results)]
        schema = store.schema or self._schema(rows)
        joined = concatenate(rows, schema)
        joined = replace(joined, x=joined.x | {PROPOSAL: np.asarray(log_q, np.float64)})
        with Writer(store) as writer:
            writer.set_schema(schema)
            writer.commit([joined.conform(schema)])

    def _schema(self, rows: Sequence[Rows]) -> Schema:
        return schema_of(next(row for row in rows if row.x), self.ragged)

    def _row(self, number: int, result: ParticleResult, theta: np.ndarray) -> Rows:
        found = {} if result.particle is None else result.particle.sum_stat
        x = {name: np.asarray(value)[None] for name, value in found.items()}
        lengths = {name: np.array([x[name].shape[1]]) for name in self.ragged if x}
        x |= {PROPOSAL: np.zeros(1)} if x else {}
        ok = result.outcome == Outcome.OK
        failures = () if ok else (Failure(number, result.outcome, result.message),)
        outcome, seconds = np.array([result.outcome], np.uint8), np.array([result.seconds])
        ids = np.array([number])
        return Rows(ids, theta[None], x, lengths, outcome, seconds.astype(np.float32), failures)

    def outputs(self, ids: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
        """Return the outputs of those rows that are there and ok, by id."""
        if not (self.path / "store.json").exists():
            return {}
        store = Store.open(self.path)
        rows = store.rows(np.intersect1d(ids, store.ids(Outcome.OK)))
        x = without_row(rows.x)
        return {
            number: {
                name: values[k, : rows.lengths[name][k]] if name in rows.lengths else values[k]
                for name, values in x.items()
            }
            for k, number in enumerate(rows.ids.tolist())
        }

    def holds(self, ids: np.ndarray) -> bool:
        """Return whether all rows are there."""
        there = (self.path / "store.json").exists()
        return there and bool(np.isin(ids, Store.open(self.path).ids()).all())
