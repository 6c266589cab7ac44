"""What does the model predict before any observation? Statistics of all outputs over a store larger than memory.

    python -m examples.prior_predictive RUN [--workers 2] [--memory 1GB] [--scheduler ADDRESS]

For every element of every output: mean, standard deviation, smallest, largest, and the 5 %, 50 % and 95 %
quantiles, the latter from a histogram of 1000 bins, so to a thousandth of the range. Reads a store through
`to_dask(store)`, one shard at a time in each worker of a dask.distributed cluster: a local one, or one that runs
already at ADDRESS, such as one of dask-jobqueue on SLURM (see `docs/scaling.md`). Writes `prior_predictive.npz`
to the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster

from pipeline.run import RunDirectory
from pipeline.store import Store, to_dask

BINS = 1000
QUANTILES = (0.05, 0.5, 0.95)
DEEP = 4  # chunks whose partial results are combined at once


def statistics(store: Store, budget: int | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Return `mean`, `sd`, `low`, `high` (...) and `quantiles` (3, ...) of each output over its ok rows.

    Two passes over the data, each of which holds a few shards in memory and no more. An output whose length varies
    counts as far as it goes.
    """
    _, _, x, lengths = to_dask(store, budget)
    found = {}
    for name, values in x.items():
        known = _known(values, lengths.get(name))
        first = dask.compute(*_moments(values, known))
        count, total, square, low, high = (np.asarray(part) for part in first)
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - mean**2, 0))
        counts = np.asarray(_histogram(values, known, low, high).compute())
        found[name] = {"mean": mean, "sd": spread, "low": low, "high": high,
                       "quantiles": _quantiles(counts, low, high)}  # fmt: skip
    return found


def _known(values: da.Array, lengths: da.Array | None) -> da.Array:
    """Return which elements (n, ...) are data, not padding; broadcast over the inner axes."""
    inner = (1,) * (values.ndim - 1)
    if lengths is None:
        return da.ones((len(values), *inner), dtype=bool, chunks=(values.chunks[0], *inner))
    positions = da.arange(values.shape[1]).reshape(1, -1, *inner[1:])
    return positions < lengths.reshape(-1, *inner)


def _moments(values: da.Array, known: da.Array) -> tuple[da.Array, ...]:
    wide = values.astype(np.float64)
    data = da.where(known, wide, 0.0)
    count = (known & da.ones_like(values, dtype=bool)).sum(axis=0, split_every=DEEP)
    low = da.where(known, wide, np.inf).min(axis=0, split_every=DEEP)
    high = da.where(known, wide, -np.inf).max(axis=0, split_every=DEEP)
    return (
        count,
        data.sum(axis=0, split_every=DEEP),
        (data**2).sum(axis=0, split_every=DEEP),
        low,
        high,
    )


def _histogram(values: da.Array, known: da.Array, low: np.ndarray, high: np.ndarray) -> da.Array:
    """Return counts (BINS, ...) of every element over its own range."""
    parts = [
        da.from_delayed(
            dask.delayed(_counts)(part, flags, low, high),
            shape=(1, BINS, *low.shape),
            dtype=np.int64,
        )
        for part, flags in zip(
            values.to_delayed().reshape(len(values.chunks[0]), -1)[:, 0],
            known.to_delayed().reshape(len(values.chunks[0]), -1)[:, 0],
            strict=True,
        )
    ]
    return da.concatenate(parts).sum(axis=0, split_every=DEEP)


def _counts(values: np.ndarray, known: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    width = np.where(high > low, high - low, 1.0)
    bins = np.clip((values - low) / width * BINS, 0, BINS - 1).astype(np.int64)
    flat, there = (
        bins.reshape(len(values), -1),
        np.broadcast_to(known, values.shape).reshape(len(values), -1),
    )
    counts = [
        np.bincount(flat[there[:, element], element], minlength=BINS)
        for element in range(flat.shape[1])
    ]
    return np.stack(counts, axis=1).reshape(1, BINS, *low.shape)


def _quantiles(counts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    below = np.cumsum(counts, axis=0) / counts.sum(axis=0)
    edges = [np.argmax(below >= quantile, axis=0) + 0.5 for quantile in QUANTILES]
    return np.stack([low + edge / BINS * (high - low) for edge in edges])


def main() -> None:
    """Measure, write, and say where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="1GB", help="of each worker")
    parser.add_argument("--scheduler", help="of a cluster that runs already")
    asked = parser.parse_args()
    store = Store.open(RunDirectory(asked.run).store("train"))
    local: Any = None
    if asked.scheduler is None:
        local = LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, memory_limit=asked.memory,
            host="127.0.0.1", dashboard_address=None,
        )  # fmt: skip
    with Client(local or asked.scheduler):
        found = statistics(store)
    if local is not None:
        local.close()
    path = asked.run / "prior_predictive.npz"
    np.savez(
        path, **{f"{name}_{what}": v for name, each in found.items() for what, v in each.items()}
    )
    print(path)


if __name__ == "__main__":
    main()
