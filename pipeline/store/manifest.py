"""The sealed manifest of a shard, from which a store is opened without reading columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import PipelineError
from pipeline.store.rows import Rows

FORMAT = 2
MOST_RUNS = 256  # more are read faster from the columns
SLOWEST = 16  # rows that ran longest, named in the manifest


class Runs(NamedTuple):
    """Neighbouring rows with consecutive ids and one outcome, as columns (k,)."""

    first: np.ndarray  # id
    length: np.ndarray
    row: np.ndarray  # in its shard
    outcome: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, outcome: np.ndarray) -> Runs:
        """Return rows (n,) of increasing ids as runs."""
        new = (np.diff(ids) != 1) | (np.diff(outcome) != 0)
        row = np.append(0, np.flatnonzero(new) + 1)[: len(ids)]
        return cls(ids[row], np.diff(np.append(row, len(ids))), row, outcome[row])


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest; what only format 2 has is None in one of format 1."""

    rows: int
    ids: tuple[int, int]  # first and last
    files: Mapping[str, Mapping[str, Any]]  # size and sha256 of each
    runs: Runs | None = None  # None also if there are many
    hashes: np.ndarray | None = None  # (2,), sums of the row hashes
    slowest: tuple[tuple[int, float], ...] | None = None  # (id, seconds), the longest first

    @classmethod
    def of(cls, rows: Rows, hashes: np.ndarray, files: Mapping[str, Mapping[str, Any]]) -> Manifest:
        """Return the manifest of rows in id order, at least one, with hashes (n, 2)."""
        runs = Runs.of(rows.ids, rows.outcome)
        return cls(
            rows=len(rows),
            ids=(int(rows.ids[0]), int(rows.ids[-1])),
            files=files,
            runs=runs if len(runs.first) <= MOST_RUNS else None,
            hashes=hashes.sum(axis=0),
            slowest=slowest(rows.ids, rows.seconds, SLOWEST),
        )

    def spec(self) -> dict[str, Any]:
        """Return the content of a document of format 2."""
        assert self.hashes is not None
        assert self.slowest is not None
        spec = {
            "format": FORMAT,
            "rows": self.rows,
            "ids": list(self.ids),
            "hashes": [f"{int(lane):016x}" for lane in self.hashes],
            "slowest": [list(one) for one in self.slowest],
        }
        if self.runs is not None:
            columns = self.runs.first, self.runs.length, self.runs.outcome
            spec["runs"] = np.stack(columns, axis=1).tolist()
        return spec | {"files": self.files}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], path: Any) -> Manifest:
        """Return the content of a document; `PipelineError` if it is of a later format."""
        if spec["format"] > FORMAT:
            raise PipelineError(
                f"{path} has shard format {spec['format']}, this version reads up to {FORMAT}: "
                "update sbiflow"
            )
        first, last = spec["ids"]
        sums, slow = spec.get("hashes"), spec.get("slowest")
        return cls(
            rows=spec["rows"],
            ids=(first, last),
            files=spec["files"],
            runs=_runs(spec["runs"]) if "runs" in spec else None,
            hashes=np.array([int(lane, 16) for lane in sums], np.uint64) if sums else None,
            slowest=tuple((i, float(s)) for i, s in slow) if slow is not None else None,
        )


def _runs(spec: list[list[int]]) -> Runs:
    first, count, outcome = np.array(spec, np.int64).T
    return Runs(first, count, np.cumsum(count) - count, outcome.astype(np.uint8))


def slowest(ids: np.ndarray, seconds: np.ndarray, n: int) -> tuple[tuple[int, float], ...]:
    """Return (id, seconds) of the n rows that ran longest, the lower id first among equals."""
    known = np.flatnonzero(~np.isnan(seconds))
    if len(known) > n:  # only those that can be among them are sorted
        least = np.partition(seconds[known], len(known) - n)[len(known) - n]
        known = known[seconds[known] >= least]
    order = known[np.lexsort((ids[known], -seconds[known]))][:n]
    return tuple((int(ids[k]), float(seconds[k])) for k in order)
