"""Views, export and import: the same ok rows, however they are looked at."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.store import (
    Outcome,
    Rows,
    Schema,
    Spool,
    Store,
    Writer,
    export,
    import_arrays,
    to_dask,
    to_numpy,
    to_xarray,
    verify,
)
from pipeline.store.rows import padded

IDENTITY = {"prior": {"a": {}, "b": {}}, "seed": 1}
SCHEMA = Schema({"x": ("<f4", (3,)), "path": ("<f8", (5,))}, frozenset({"path"}))


def rows(ids):
    ids = np.asarray(ids, np.int64)
    outcome = np.where(ids % 9 == 4, Outcome.INVALID, Outcome.OK).astype("u1")
    lengths = 1 + ids % 6
    path = np.where(np.arange(6) < lengths[:, None], ids[:, None] - 3.5, 0)
    path[ids % 2 == 0] = 0  # zeros are data
    x = {"x": np.sin(ids[:, None] + np.arange(3)).astype("f4"), "path": path}
    theta = np.cos(ids[:, None] + [0.0, 1.0])
    return Rows(ids, theta, x, {"path": lengths}, outcome, np.ones(len(ids), "f4"))


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "store", IDENTITY, shard_bytes=1024)
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        with Spool(writer.spool_directory, "a", SCHEMA, 16) as spool:
            for ids in np.array_split(np.random.default_rng(0).permutation(100), 9):
                spool.append(rows(ids))
    return store


OK = np.array([i for i in range(100) if i % 9 != 4])


def test_numpy(store):
    ids, theta, x, lengths = to_numpy(store, 80)
    np.testing.assert_array_equal(ids, OK[OK < 80])
    expected = rows(ids)
    np.testing.assert_array_equal(theta, expected.theta)
    np.testing.assert_array_equal(x["x"], expected.x["x"])
    np.testing.assert_array_equal(x["path"], expected.x["path"])
    np.testing.assert_array_equal(lengths["path"], expected.lengths["path"])


def test_shard_views_read_ranges_and_travel(store):
    views = pickle.loads(pickle.dumps(store.shards(70)))
    assert np.sort(np.concatenate([view.ids for view in views])).tolist() == OK[OK < 70].tolist()
    for view in views:
        parts = [view.read(start, start + 3) for start in range(0, len(view), 3)]
        np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), view.ids)
        for part in parts:
            np.testing.assert_array_equal(part.x["x"], rows(part.ids).x["x"])
            longest = part.x["path"].shape[1]
            np.testing.assert_array_equal(
                part.x["path"], padded(rows(part.ids).x["path"][:, :longest], longest)
            )
            assert (part.outcome == Outcome.OK).all()


def test_reading_a_range_takes_the_memory_of_the_range(tmp_path):
    schema = Schema({"x": ("<f8", (1000,))})
    store = Store.create(tmp_path / "wide", IDENTITY)
    batch = Rows(
        *(np.arange(2000), np.zeros((2000, 2)), {"x": np.ones((2000, 1000))}, {}),
        *(np.zeros(2000, "u1"), np.zeros(2000, "f4")),
    )
    with Writer(store) as writer:
        writer.set_schema(schema)
        with Spool(writer.spool_directory, "a", schema, 2000) as spool:
            spool.append(batch)
    (view,) = store.shards()
    tracemalloc.start()
    assert view.read(900, 910).x["x"].sum() == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # of 16 MB


def test_dask_and_xarray_are_lazy_and_equal(store):
    ids, theta, x, lengths = to_dask(store, 80)
    order = np.argsort(ids.compute())
    expected = to_numpy(store, 80)
    np.testing.assert_array_equal(ids.compute()[order], expected[0])
    np.testing.assert_array_equal(theta.compute()[order], expected[1])
    np.testing.assert_array_equal(x["path"].compute()[order], expected[2]["path"])
    np.testing.assert_array_equal(lengths["path"].compute()[order], expected[3]["path"])
    np.testing.assert_allclose(x["x"].mean(axis=0).compute(), expected[2]["x"].mean(axis=0), 1e-4)
    data = to_xarray(store, 80)
    assert data.sizes["simulation"] == len(order)
    assert data.parameter.values.tolist() == ["a", "b"]
    assert data.x.chunks is not None
    by_id = data.set_index(simulation="id").sortby("simulation")
    np.testing.assert_array_equal(by_id.theta.sel(parameter="b"), expected[1][:, 1])


def test_dask_on_processes(store):
    ids, theta, _, _ = to_dask(store)
    expected = to_numpy(store)[1].sum()
    assert theta.sum().compute(scheduler="processes", num_workers=1) == pytest.approx(expected)
    assert ids.chunks[0] == theta.chunks[0]


def test_export(store, tmp_path):
    import xarray

    expected = to_numpy(store)
    loaded = np.load(export(store, tmp_path / "out.npz"))
    np.testing.assert_array_equal(loaded["id"], expected[0])
    np.testing.assert_array_equal(loaded["x/path"], expected[2]["path"])
    np.testing.assert_array_equal(loaded["lengths/path"], expected[3]["path"])
    export(store, tmp_path / "out.data", "netcdf", budget=50)
    with xarray.open_dataset(tmp_path / "out.data", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data.id, OK[OK < 50])
        np.testing.assert_array_equal(data.theta, expected[1][: len(data.id)])
        assert data.path_length.values.max() == 6
    with pytest.raises(UsageError, match=r"out\.txt with format None; valid are"):
        export(store, tmp_path / "out.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.data", "out.npz", "store"]


def test_an_export_that_fails_leaves_the_old_file(store, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    out.write_text("old")
    next((store.path / "shards").rglob("theta/c/0/0")).unlink()
    with pytest.raises(Exception, match="theta"):
        export(store, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "store"]


def test_import_of_ready_made_arrays(tmp_path):
    generator = np.random.default_rng(1)
    theta, x = generator.normal(size=(50, 2)), generator.normal(size=(50, 4)).astype("f4")
    x[7, 2] = np.nan
    store = import_arrays(tmp_path / "in", theta, x, ["mu", "tau"])
    assert store.names == ("mu", "tau")
    assert store.counts(50) == {
        "done": 50, "ok": 49, "failed": 0, "timeout": 0, "invalid": 1, "missing": 0
    }  # fmt: skip
    assert [(row.id, row.message) for row in store.failures()] == [
        (7, "NaN or infinity in the outputs of row 7")
    ]
    keep = np.arange(50) != 7
    np.testing.assert_array_equal(to_numpy(store)[1], theta[keep])
    np.testing.assert_array_equal(to_numpy(store)[2]["x"], x[keep])
    assert verify(store) == []
    again = import_arrays(tmp_path / "in", theta, x, ["mu", "tau"])
    assert len(again.index.shards) == 1
    with pytest.raises(UsageError, match=r"imported\.content"):
        import_arrays(tmp_path / "in", theta + 1, x, ["mu", "tau"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros(5)}, r"theta is float64 \(5,\)"),
        ({"theta": np.full((5, 2), np.nan)}, "theta holds NaN or infinity in 5 rows"),
        ({"x": np.zeros((4, 3))}, r"x\['x'\] has shape \(4, 3\); theta has 5 rows"),
        ({"x": {"y": np.array(["a"] * 5)}}, r"x\['y'\] has dtype <U1"),
        ({"x": {}}, "x holds no output"),
        ({"names": ["a"]}, "2 different parameter names"),
        ({"names": ["a", "a"]}, "2 different parameter names"),
        ({"lengths": {"x": np.full(5, 9)}}, "lengths of output 'x' must lie in 0..3"),
    ],
)
def test_import_refuses_what_does_not_fit(tmp_path, change, message):
    good = {"theta": np.zeros((5, 2)), "x": np.zeros((5, 3)), "names": ["a", "b"]}
    with pytest.raises(UsageError, match=message):
        import_arrays(tmp_path / "in", **(good | change))
    assert not (tmp_path / "in").exists()
