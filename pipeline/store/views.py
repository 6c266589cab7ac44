"""Views of the ok rows: by shard for streaming, numpy, dask.array, xarray."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.store.rows import Rows, Schema, padded
from pipeline.store.shard import Shard

if TYPE_CHECKING:
    from dask.array import Array as DaskArray
    from xarray import Dataset

    from pipeline.store.store import Store

Arrays = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class ShardView:
    """Some rows of one shard, read when asked for; small enough to be sent to another process.

    `ids` (n,) and `positions` (n,) of the rows in the shard, both increasing.
    """

    path: Path
    ids: np.ndarray
    positions: np.ndarray
    schema: Schema | None

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int = 0, stop: int | None = None) -> Rows:
        """Return rows `start` to `stop` of this view; memory is that of the range they span."""
        wanted = self.positions[start:stop]
        if not len(wanted):
            return self._shard.rows(0, 0, self.schema)
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        rows = self._shard.rows(first, last, self.schema)
        return rows if last - first == len(wanted) else rows.take(wanted - first)

    def column(self, name: str) -> np.ndarray:
        """Return one column of all rows by its name in the shard, e.g. `theta` or `x/signal`."""
        shard = self._shard
        if name not in shard.arrays:  # a shard without outputs
            return self.read().columns()[name]
        values = shard.read(name)
        return values if len(values) == len(self) else values[self.positions]

    def longest(self, name: str) -> int:
        """Return the length to which this shard pads a ragged output."""
        arrays = self._shard.arrays
        return arrays[f"x/{name}"][1][1] if f"x/{name}" in arrays else 0

    def with_failures(self) -> Rows:
        """Return all rows with the reasons of those that are not ok."""
        rows, kept = self.read(), set(self.ids.tolist())
        if not rows.outcome.any():
            return rows
        reasons = tuple(reason for reason in self._shard.failures() if reason.id in kept)
        return replace(rows, failures=reasons)

    @property
    def _shard(self) -> Shard:
        return Shard(self.path)


def _longest(views: list[ShardView], schema: Schema | None) -> dict[str, int]:
    names = schema.ragged if schema else ()
    return {name: max((view.longest(name) for view in views), default=0) for name in names}


def to_numpy(store: Store, budget: int | None = None) -> Arrays:
    """Return (ids (n,), theta (n, D), x {name: (n, ...)}, lengths {name: (n,)}) of ok rows by id."""
    views, schema = store.shards(budget), store.schema
    ids = np.concatenate([np.zeros(0, np.int64), *(view.ids for view in views)])
    order = np.argsort(ids, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    theta = np.zeros((len(ids), len(store.names)))
    longest = _longest(views, schema)
    x, lengths = {}, {}
    for name, (dtype, shape) in schema.arrays.items() if schema else ():
        inner = (longest[name], *shape[1:]) if name in longest else shape
        x[name] = np.zeros((len(ids), *inner), dtype)
    for name in longest:
        lengths[name] = np.zeros(len(ids), np.int64)
    start = 0
    for view in views:
        rows, at = view.read(), place[start : start + len(view)]
        start += len(view)
        theta[at] = rows.theta
        for name, values in rows.x.items():
            x[name][at] = padded(values, longest[name]) if name in longest else values
        for name, values in rows.lengths.items():
            lengths[name][at] = values
    return ids[order], theta, x, lengths


def _column(view: ShardView, name: str, longest: int | None) -> np.ndarray:
    values = view.column(name)
    return values if longest is None else padded(values, longest)


def _dask_column(
    views: list[ShardView], name: str, dtype: str, inner: tuple[int, ...], longest: int | None
) -> DaskArray:
    import dask.array as da
    from dask import delayed

    shape = inner if longest is None else (longest, *inner[1:])
    parts = [
        da.from_delayed(
            delayed(_column)(view, name, longest), shape=(len(view), *shape), dtype=np.dtype(dtype)
        )
        for view in views
    ]
    return da.concatenate(parts) if parts else da.zeros((0, *shape), dtype=dtype)


def to_dask(
    store: Store, budget: int | None = None
) -> tuple[DaskArray, DaskArray, dict[str, DaskArray], dict[str, DaskArray]]:
    """Return (ids, theta, x, lengths) of ok rows as dask arrays, one chunk per shard, in shard order.

    The order is that of the shards, not of the ids: use the ids to align. Works on any scheduler whose
    workers see the store's folder.
    """
    import dask.array as da

    views, schema = store.shards(budget), store.schema
    longest = _longest(views, schema)
    ids = [da.from_array(view.ids, chunks=-1) for view in views]
    x = {
        name: _dask_column(views, f"x/{name}", dtype, shape, longest.get(name))
        for name, (dtype, shape) in (schema.arrays.items() if schema else ())
    }
    lengths = {name: _dask_column(views, f"lengths/{name}", "<i8", (), None) for name in longest}
    return (
        da.concatenate(ids) if ids else da.zeros(0, dtype=np.int64),
        _dask_column(views, "theta", "<f8", (len(store.names),), None),
        x,
        lengths,
    )


def dataset(
    store: Store, ids: Any, theta: Any, x: dict[str, Any], lengths: dict[str, Any]
) -> Dataset:
    """Return arrays as an xarray Dataset: dims `simulation`, `parameter` and those of the outputs."""
    import xarray

    variables: dict[str, Any] = {"theta": (("simulation", "parameter"), theta)}
    for name, values in x.items():
        inner = tuple(f"{name}_{axis}" for axis in range(values.ndim - 1))
        variables[name if name not in ("theta", "id", "parameter") else f"x_{name}"] = (
            ("simulation", *inner),
            values,
        )
    for name, values in lengths.items():
        variables[f"{name}_length"] = (("simulation",), values)
    coords = {"id": (("simulation",), np.asarray(ids)), "parameter": list(store.names)}
    return xarray.Dataset(variables, coords, {"identity": json.dumps(store.identity)})


def to_xarray(store: Store, budget: int | None = None) -> Dataset:
    """Return the ok rows as a lazy xarray Dataset in shard order, with the coordinate `id`."""
    return dataset(store, *to_dask(store, budget))
