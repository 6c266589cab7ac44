"""All ok rows of a store as numpy arrays, dask arrays or an xarray Dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.store.rows import Schema, padded
from pipeline.store.shard_view import ShardView
from pipeline.store.store import Store

if TYPE_CHECKING:
    from dask.array import Array as DaskArray
    from xarray import Dataset

Arrays = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]


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
        rows, at = view.read(seconds=False), place[start : start + len(view)]
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
