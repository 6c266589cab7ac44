"""The example that reads a store with Dask: its numbers, and a store that is larger than its worker's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.prior_predictive import statistics
from pipeline.run import RunDirectory
from pipeline.store import Rows, Schema, Spool, Store, Writer, to_numpy


def _store(path: Path, shards: int, rows: int, width: int) -> Store:
    """Make a store of normal draws, element k with mean k."""
    schema = Schema({"x": ("<f4", (width,))})
    store = Store.create(path, {"names": ["a"]}, schema, 64 << 20)
    rng = np.random.default_rng(0)
    with (
        Writer(store) as writer,
        Spool(writer.spool_directory, "a", schema, rows, 1 << 30) as spool,
    ):
        for shard in range(shards):
            x = rng.standard_normal((rows, width), np.float32) + np.arange(width, dtype=np.float32)
            ids = np.arange(shard * rows, (shard + 1) * rows)
            spool.append(Rows(ids, rng.normal(size=(rows, 1)), {"x": x}, {}, np.zeros(rows, np.uint8),
                              np.zeros(rows, np.float32)))  # fmt: skip
    return store


def test_the_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    store = _store(tmp_path, 5, 400, 3)
    found = statistics(store)["x"]
    x = to_numpy(store)[2]["x"].astype(float)
    np.testing.assert_allclose(found["mean"], x.mean(axis=0))
    np.testing.assert_allclose(found["sd"], x.std(axis=0))
    exact = np.quantile(x, (0.05, 0.5, 0.95), axis=0)
    np.testing.assert_allclose(found["quantiles"], exact, atol=2e-3 * np.ptp(x))


def test_padding_is_no_data(tmp_path: Path) -> None:
    schema = Schema({"x": ("<f8", (0,))}, frozenset({"x"}))
    store = Store.create(tmp_path, {"names": ["a"]}, schema)
    x = np.array([[5.0, 7.0], [7.0, 0.0]])
    rows = Rows(np.arange(2), np.zeros((2, 1)), {"x": x}, {"x": np.array([2, 1])}, np.zeros(2, np.uint8),
                np.zeros(2, np.float32))  # fmt: skip
    with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 10) as spool:
        spool.append(rows)
    found = statistics(store)["x"]
    assert found["mean"].tolist() == [6.0, 7.0]
    assert found["low"].tolist() == [5.0, 7.0]


@pytest.mark.slow
def test_a_store_larger_than_the_memory_of_its_only_worker(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    store = _store(run.store("train"), 30, 16_000, 250)  # 16 MB each
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert size > 450e6
    command = [sys.executable, "-m", "examples.prior_predictive", str(run.path), "--workers", "1"]
    done = subprocess.run(
        [*command, "--memory", "450MB"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "memory budget" not in done.stderr  # dask ended no worker
    found = np.load(run.path / "prior_predictive.npz")
    np.testing.assert_allclose(found["x_mean"], np.arange(250), atol=0.01)
    np.testing.assert_allclose(found["x_sd"], 1, atol=0.01)
