"""Batches of simulations (rows), and the schema of their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

from pipeline.errors import UsageError

MOST_ROWS = 262_144  # of one shard
KINDS = "biufc"  # bool, integers, floats, complex


class Outcome(IntEnum):
    """How a simulation ended."""

    OK = 0
    FAILED = 1
    TIMEOUT = 2
    INVALID = 3


@dataclass(frozen=True)
class Failure:
    """Why simulation `id` is not ok."""

    id: int
    outcome: Outcome
    message: str
    traceback: str = ""

    def spec(self) -> list[Any]:
        """Return the failure as JSON."""
        return [int(self.id), int(self.outcome), self.message, self.traceback]

    @classmethod
    def from_spec(cls, spec: Sequence[Any]) -> Failure:
        number, outcome, message, traceback = spec
        return cls(number, Outcome(outcome), message, traceback)


@dataclass(frozen=True)
class Schema:
    """Outputs of a simulator: `{name: (dtype, shape of one row)}`.

    The first axis of a `ragged` output varies from row to row and is written as 0 here.
    """

    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    ragged: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        ragged = frozenset(self.ragged)
        if unknown := ragged - set(self.arrays):
            raise UsageError(f"ragged outputs {sorted(unknown)} are not among {list(self.arrays)}")
        arrays = {
            name: _normalised(name, dtype, tuple(shape), name in ragged)
            for name, (dtype, shape) in sorted(self.arrays.items())
        }
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "ragged", ragged)

    def spec(self) -> dict[str, Any]:
        """Return the schema as JSON."""
        arrays = {
            name: {"dtype": dtype, "shape": list(shape)}
            for name, (dtype, shape) in self.arrays.items()
        }
        return {"arrays": arrays, "ragged": sorted(self.ragged)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Schema:
        arrays = {
            name: (array["dtype"], tuple(array["shape"])) for name, array in spec["arrays"].items()
        }
        return cls(arrays, frozenset(spec["ragged"]))

    def rows_per_shard(self, parameters: int, shard_bytes: int) -> int:
        """Return the power of two, at most 262144, whose rows fit in `shard_bytes`.

        A ragged output counts as one element of its first axis.
        """
        row = 8 + 8 * parameters + 1 + 4 + 16 + 8 * len(self.ragged)
        for name, (dtype, shape) in self.arrays.items():
            elements = np.prod(shape[1:] if name in self.ragged else shape)
            row += np.dtype(dtype).itemsize * int(elements)
        return int(2 ** int(np.log2(np.clip(shard_bytes // row, 1, MOST_ROWS))))


def _normalised(
    name: str, dtype: str, shape: tuple[int, ...], ragged: bool
) -> tuple[str, tuple[int, ...]]:
    kind = np.dtype(dtype)
    if not name or "/" in name or name.startswith((".", "__")):
        raise UsageError(f"output name {name!r} must be without '/' and not start with '.' or '__'")
    if kind.kind not in KINDS or kind.itemsize > 16:
        raise UsageError(f"output {name!r} has dtype {dtype}; valid are numbers and bool")
    if ragged and not shape:
        raise UsageError(f"output {name!r} is ragged but a scalar; it needs an axis that varies")
    inner = shape[1:] if ragged else shape
    if 0 in inner:
        raise UsageError(f"output {name!r} has shape {shape}, which holds no value")
    return kind.newbyteorder("<").str, (0, *inner) if ragged else shape


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of n simulations in any order.

    `ids` (n,) int64, `theta` (n, D) float64, `x` {name: (n, ...)}, `lengths` {ragged name: (n,)},
    `outcome` (n,) uint8, `seconds` (n,) float32. `x` is zero where there is no output (failed, timed
    out, and behind the end of a ragged value) and `{}` when no row has outputs.
    """

    ids: np.ndarray
    theta: np.ndarray
    x: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    outcome: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.columns().values())

    def columns(self) -> dict[str, np.ndarray]:
        """Return every column by its name in a shard (without the row hash)."""
        columns = {"id": self.ids, "theta": self.theta}
        columns |= {"outcome": self.outcome, "seconds": self.seconds}
        columns |= {f"lengths/{name}": array for name, array in self.lengths.items()}
        return columns | {f"x/{name}": array for name, array in self.x.items()}

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray], failures: Sequence[Failure]) -> Rows:
        def below(folder: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(folder): array
                for name, array in columns.items()
                if name.startswith(folder)
            }

        return cls(
            *(columns["id"], columns["theta"], below("x/"), below("lengths/")),
            *(columns["outcome"], columns["seconds"], tuple(failures)),
        )

    def take(self, selection: slice | np.ndarray) -> Rows:
        """Return the rows at a slice or at positions, with the failures that belong to them."""
        ids = self.ids[selection]
        failures = self.failures
        if failures:
            kept = set(ids.tolist())
            failures = tuple(failure for failure in failures if failure.id in kept)
        columns = {name: array[selection] for name, array in self.columns().items()}
        return Rows.from_columns(columns, failures)

    def conform(self, schema: Schema | None) -> Rows:
        """Return these rows as the store keeps them: exact dtypes, little-endian, zeros as padding.

        Raises `UsageError` where an output differs from the schema in name, dtype or shape.
        """
        n = len(self)
        fixed = {
            "theta": np.ascontiguousarray(self.theta, "<f8"),
            "outcome": np.ascontiguousarray(self.outcome, "u1"),
            "seconds": np.ascontiguousarray(self.seconds, "<f4"),
        }
        for name, array in fixed.items():
            if array.shape[:1] != (n,) or array.ndim != (2 if name == "theta" else 1):
                raise UsageError(f"{name} has shape {array.shape} for {n} ids")
        x, lengths = self.x, self.lengths
        if x:
            x, lengths = _conform_outputs(self, schema)
        ids = np.ascontiguousarray(self.ids, "<i8")
        return Rows(ids=ids, x=x, lengths=lengths, failures=self.failures, **fixed)


def _conform_outputs(
    rows: Rows, schema: Schema | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    arrays = schema.arrays if schema else {}
    if set(rows.x) != set(arrays):
        raise UsageError(f"outputs are {sorted(rows.x)}, the store holds {sorted(arrays)}")
    x, lengths = {}, {}
    for name, (dtype, shape) in arrays.items():
        values = rows.x[name]
        ragged = schema is not None and name in schema.ragged
        skip = 2 if ragged else 1
        expected = shape[skip - 1 :]
        if (
            len(values) != len(rows)
            or values.shape[skip:] != expected
            or values.dtype != np.dtype(dtype)
        ):
            raise UsageError(
                f"output {name!r} is {values.dtype} {values.shape} for {len(rows)} rows, the store "
                f"holds {np.dtype(dtype)} {('*', *expected) if ragged else expected} in each row"
            )
        if ragged:
            values, lengths[name] = _conform_ragged(name, values, rows.lengths.get(name))
        x[name] = np.ascontiguousarray(values, dtype)
    return x, lengths


def _conform_ragged(
    name: str, values: np.ndarray, lengths: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if lengths is None or lengths.shape != values.shape[:1]:
        raise UsageError(f"ragged output {name!r} needs one length for each of {len(values)} rows")
    lengths = np.ascontiguousarray(lengths, "<i8")
    if len(lengths) and (lengths.min() < 0 or lengths.max() > values.shape[1]):
        raise UsageError(f"lengths of output {name!r} must lie in 0..{values.shape[1]}")
    longest = int(lengths.max(initial=0))
    beyond = np.arange(longest) >= lengths[:, None]
    values = values[:, :longest]
    if values[beyond].any():
        values = values.copy()
        values[beyond] = 0
    return values, lengths


def with_outputs(rows: Rows, schema: Schema | None) -> Rows:
    """Return rows whose outputs are present, as zeros where no row had any."""
    if rows.x or schema is None:
        return rows
    n = len(rows)
    x = {name: np.zeros((n, *shape), dtype) for name, (dtype, shape) in schema.arrays.items()}
    return replace(rows, x=x, lengths={name: np.zeros(n, np.int64) for name in schema.ragged})


def padded(values: np.ndarray, longest: int) -> np.ndarray:
    """Return ragged values (n, L, ...) as (n, longest, ...), zeros behind."""
    if values.shape[1] == longest:
        return values
    wide = np.zeros((len(values), longest, *values.shape[2:]), values.dtype)
    wide[:, : values.shape[1]] = values
    return wide


def concatenate(batches: Sequence[Rows], schema: Schema | None) -> Rows:
    """Return batches as one, in their order; batches without outputs get zeros."""
    if len(batches) == 1:
        return batches[0]
    if any(batch.x for batch in batches):
        batches = [with_outputs(batch, schema) for batch in batches]
    columns = {}
    for name in batches[0].columns():
        parts = [batch.columns()[name] for batch in batches]
        if schema and name.startswith("x/") and name.removeprefix("x/") in schema.ragged:
            longest = max(part.shape[1] for part in parts)
            parts = [padded(part, longest) for part in parts]
        columns[name] = np.concatenate(parts)
    failures = [failure for batch in batches for failure in batch.failures]
    return Rows.from_columns(columns, failures)


def winners(ids: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Return the positions (m,) of the row that counts for each id, in id order.

    An ok row wins over one that is not, then the later position wins.
    """
    if np.all(ids[1:] > ids[:-1]):
        return np.arange(len(ids))
    order = np.argsort(ids, kind="stable")
    if np.all(ids[order[1:]] > ids[order[:-1]]):
        return order
    order = np.lexsort((outcome == Outcome.OK, ids))  # stable: equals keep their order
    last = np.append(ids[order[1:]] != ids[order[:-1]], True)
    return order[last]
