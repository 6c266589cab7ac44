"""The store: identity, superseding, digest, growth, two writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError, UsageError
from pipeline.store import (
    DamagedError,
    Failure,
    IdentityError,
    LockedError,
    Outcome,
    Rows,
    Schema,
    Spool,
    Store,
    Writer,
    to_numpy,
    verify,
)
from pipeline.store.hash import row_hashes
from pipeline.store.shard import Shard

IDENTITY = {
    "simulator": {"name": "toy", "version": "1", "arguments": {"k": 2}},
    "prior": {"b": {"name": "uniform", "low": 0.0}, "a": {"name": "uniform", "low": -1}},
    "seed": 7,
}
SCHEMA = Schema({"x": ("<f8", (3,)), "count": ("<i4", ())})


def rows(ids, outcome=Outcome.OK, seconds=0.5):
    """Simulations whose every number follows from the id, as a simulator's would."""
    ids = np.asarray(ids, np.int64)
    kinds = np.broadcast_to(np.asarray(outcome, np.uint8), ids.shape).copy()
    good = (kinds == Outcome.OK)[:, None]
    theta = np.sin(ids[:, None] + np.arange(2.0))
    x = {
        "x": np.where(good, np.cos(ids[:, None] * np.arange(1.0, 4.0)), 0.0),
        "count": np.where(good[:, 0], ids % 11, 0).astype("<i4"),
    }
    failures = tuple(
        Failure(int(i), Outcome(int(k)), f"broke at {i}", "Traceback")
        for i, k in zip(ids, kinds, strict=True)
        if k
    )
    return Rows(ids, theta, x, {}, kinds, np.full(len(ids), seconds, "f4"), failures)


def fill(store, *batches, per_shard=64):
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        with Spool(writer.spool_directory, "actor", SCHEMA, per_shard) as spool:
            for batch in batches:
                spool.append(batch)
    return store


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", IDENTITY)


def test_rows_come_back_by_id(store):
    fill(store, rows([5, 3, 9]), rows([0], Outcome.FAILED), rows(np.arange(20, 200)))
    again = Store.open(store.path)
    assert again.names == ("b", "a")
    assert again.schema == SCHEMA
    got, expected = again.rows([9, 0, 100, 3]), rows([9, 0, 100, 3], [0, 1, 0, 0])
    for name, column in expected.columns().items():
        np.testing.assert_array_equal(got.columns()[name], column)
    assert [failure.message for failure in got.failures] == ["broke at 0"]
    ids, theta, x, lengths = to_numpy(again)
    np.testing.assert_array_equal(ids, [3, 5, 9, *range(20, 200)])
    np.testing.assert_array_equal(theta, rows(ids).theta)
    np.testing.assert_array_equal(x["count"], rows(ids).x["count"])
    assert lengths == {}


def test_budget_is_a_set_of_ids(store):
    fill(store, rows([0, 1, 4, 7, 90], [0, 2, 0, 3, 0]))
    assert store.missing(9).tolist() == [2, 3, 5, 6, 8]
    assert store.ids(budget=5).tolist() == [0, 1, 4]
    assert store.ids(Outcome.OK, budget=90).tolist() == [0, 4]
    expected = {"done": 4, "ok": 2, "failed": 0, "timeout": 1, "invalid": 1, "missing": 5}
    assert store.counts(9) == expected
    assert store.counts()["done"] == 5
    assert to_numpy(store, 5)[0].tolist() == [0, 4]
    assert [view.ids.tolist() for view in store.shards(8)] == [[0, 4]]
    with pytest.raises(UsageError, match="budget is -1"):
        store.missing(-1)
    with pytest.raises(UsageError, match="no simulation 2, 3"):
        store.rows([0, 2, 3])


def test_empty_store_answers(store):
    assert store.counts(4) == {
        "done": 0, "ok": 0, "failed": 0, "timeout": 0, "invalid": 0, "missing": 4
    }  # fmt: skip
    ids, theta, x, lengths = to_numpy(store)
    assert (ids.shape, theta.shape, x, lengths) == ((0,), (0, 2), {}, {})
    assert store.shards() == store.failures() == store.slowest() == verify(store) == []
    assert len(store.rows([])) == 0
    assert store.digest() == Store.open(store.path).digest()


def test_retry_supersedes_and_ok_wins(store, tmp_path):
    fill(store, rows([0, 1, 2, 3], [1, 2, 0, 3]))
    first = store.digest()
    fill(store, rows([1], Outcome.FAILED), per_shard=1)  # a retry with another failure
    assert store.rows([1]).outcome.tolist() == [Outcome.FAILED]
    assert [(row.id, row.outcome.name) for row in store.failures()] == [
        (0, "FAILED"), (1, "FAILED"), (3, "INVALID")
    ]  # fmt: skip
    fill(store, rows([0, 1, 3]))
    fill(store, rows([0], Outcome.TIMEOUT), per_shard=1)  # ok stays
    assert store.failures() == []
    assert store.counts(4)["ok"] == 4
    assert verify(store) == []
    quiet = fill(Store.create(tmp_path / "quiet", IDENTITY), rows([3, 1, 0, 2]))
    assert store.digest() == quiet.digest() != first


def test_digest_knows_each_value_and_not_the_layout(tmp_path):
    def digest(name, *batches, identity=IDENTITY, per_shard=64):
        return fill(Store.create(tmp_path / name, identity), *batches, per_shard=per_shard).digest()

    whole = digest("whole", rows(np.arange(100)))
    assert whole == digest("parts", rows([99]), rows(np.arange(99)[::-1]), per_shard=8)
    assert whole == digest("slow", rows(np.arange(100), seconds=9))
    assert whole != digest("fewer", rows(np.arange(99)))
    assert whole != digest("other", rows(np.arange(100)), identity=IDENTITY | {"seed": 8})
    assert whole != digest("failed", rows(np.arange(100), [1] + [0] * 99))
    seen = {whole}
    for name, place in (("theta", (3, 1)), ("x/x", (3, 2)), ("x/count", (3,))):
        batch = rows(np.arange(100))
        batch.columns()[name][place] += 1
        seen.add(digest(name.replace("/", "_"), batch))
    swapped = rows(np.arange(100))
    swapped.theta[[1, 2], 0] = swapped.theta[[2, 1], 0]
    negated = rows(np.arange(100))
    negated.theta[5] *= -1  # flips two sign bits of one row
    assert len(seen | {digest("swapped", swapped), digest("negated", negated)}) == 6
    wide = Store.open(tmp_path / "whole")
    assert wide.digest(50) == digest("half", rows(np.arange(50)))


def test_row_hash_is_the_specified_one():
    """One row by plain integers, word by word, as docs/store_format.md says."""
    import hashlib

    mask = 2**64 - 1

    def mix(h):
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
        return h ^ (h >> 31)

    def key(lane, column, j):
        start = int.from_bytes(hashlib.sha256(f"{lane}:{column}".encode()).digest()[:8], "little")
        return mix((start + (j + 1) * 0x9E3779B97F4A7C15) & mask) | 1

    one = rows([12345])
    lanes = []
    for lane in (0, 1):
        total = key(lane, "row", 0)
        for name in ("id", "theta", "outcome", "x/x", "x/count"):
            raw = one.columns()[name].tobytes()
            raw += bytes(-len(raw) % 8)
            for j in range(len(raw) // 8):
                word = int.from_bytes(raw[8 * j : 8 * j + 8], "little")
                total += key(lane, name, j) * (word ^ (word >> 32))
        lanes.append(mix(total & mask))
    assert row_hashes(one).tolist() == [lanes]


def test_growth_leaves_large_shards_untouched(tmp_path):
    store = Store.create(tmp_path / "store", IDENTITY, shard_bytes=1024)
    fill(store, rows(np.arange(100)))

    def contents():
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in (store.path / "shards").rglob("*")
            if path.is_file()
        }

    before, half = contents(), store.digest(100)
    fill(store, rows(np.arange(100, 300)))
    assert contents().items() >= before.items()
    assert store.digest(100) == half
    assert len(store.missing(300)) == 0


def test_shards_hold_many_rows_and_spools_few_files(store):
    fill(store, *(rows([i]) for i in range(500)), per_shard=256)
    assert [len(Shard(path)) for path in sorted((store.path / "shards").iterdir())] == [256, 244]
    assert list((store.path / "sessions").iterdir()) == []


def test_rows_in_spools_count_before_they_are_published(store):
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        spool = Spool(writer.spool_directory, "a", SCHEMA, 4)
        spool.append(rows([0, 1], [0, 1]))
        assert Store.open(store.path).counts(9)["done"] == 2
        spool.append(rows([1, 2, 3]))  # completes a shard, 1 is a retry
        spool.append(rows([4]))
        counts = Store.open(store.path).counts(9)
        assert (counts["ok"], counts["failed"], counts["missing"]) == (5, 0, 4)
        assert len(store.ids()) == 0
        assert writer.publish() == 3  # rows 0, 1, 2; 3 starts the next spool
        assert writer.merge() == 0  # the actor lives
        spool.close()
        assert writer.merge() == 2
    assert store.ids().tolist() == [0, 1, 2, 3, 4]


def test_another_identity_is_refused_with_a_diff(store):
    Store.open_or_create(store.path, json.loads(json.dumps(IDENTITY)))
    Store.open_or_create(store.path, IDENTITY | {"seed": 7.0})
    changed = {**IDENTITY, "simulator": {**IDENTITY["simulator"], "arguments": {"k": 3}}}
    with pytest.raises(IdentityError, match=r"simulator\.arguments\.k: 2 -> 3"):
        Store.open_or_create(store.path, changed)
    swapped = {**IDENTITY, "prior": dict(reversed(IDENTITY["prior"].items()))}
    with pytest.raises(IdentityError, match="order of parameters"):
        Store.open_or_create(store.path, swapped)
    with pytest.raises(UsageError, match="holds a store already"):
        Store.create(store.path, IDENTITY)
    with pytest.raises(UsageError, match="must be JSON"):
        Store.create(store.path.with_name("new"), {"seed": {1, 2}})


def test_newer_format_and_missing_store(tmp_path, store):
    from pipeline.files import read_document, write_document

    with pytest.raises(UsageError, match="holds no store"):
        Store.open(tmp_path)
    document = store.path / "store.json"
    write_document(document, read_document(document) | {"format": 99})
    with pytest.raises(PipelineError, match="format 99"):
        Store.open(store.path)
    document.write_text(document.read_text().replace("toy", "tox"))
    with pytest.raises(DamagedError, match=r"store\.json is damaged"):
        Store.open(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((1, 4))}, r"'x' is float64 \(1, 4\)"),
        ({"x": np.zeros((1, 3), "f4")}, "'x' is float32"),
        ({"x": None}, r"outputs are \['count'\]"),
    ],
)
def test_outputs_that_change_are_refused(store, change, message):
    batch = rows([0])
    x = {name: array for name, array in (batch.x | change).items() if array is not None}
    with Writer(store) as writer:
        spool = Spool(writer.spool_directory, "a", SCHEMA, 4)
        with pytest.raises(UsageError, match=message):
            spool.append(Rows(batch.ids, batch.theta, x, {}, batch.outcome, batch.seconds))
        spool.close()
        writer.set_schema(SCHEMA)
        with pytest.raises(UsageError, match="holds outputs"):
            writer.set_schema(Schema({"x": ("<f4", (3,))}))


def test_rows_without_outputs(store):
    """All simulations so far failed: no schema, and the same digest as with zeros."""
    bare = rows([0, 1], Outcome.FAILED)
    bare = Rows(bare.ids, bare.theta, {}, {}, bare.outcome, bare.seconds, bare.failures)
    with Writer(store) as writer, Spool(writer.spool_directory, "a", None, 8) as spool:
        spool.append(bare)
    assert store.schema is None
    assert to_numpy(store)[2] == {}
    first = store.digest()
    fill(store, rows([2, 3]))
    assert store.digest(2) == first
    assert store.rows([0, 2]).x["x"].tolist() == [[0, 0, 0], rows([2]).x["x"][0].tolist()]
    zeros = Store.create(store.path.with_name("zeros"), IDENTITY)
    assert fill(zeros, rows([0, 1, 2, 3], [1, 1, 0, 0])).digest() == store.digest()


def test_second_writer_is_refused_and_told_who_holds_the_lock(store):
    code = (
        "import sys; from pipeline.store import Store, Writer\n"
        "with Writer(Store.open(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(LockedError, match=f"process {other.pid} on "), Writer(store):
            pass
    finally:
        other.kill()
        other.wait()
    with Writer(store), pytest.raises(LockedError, match=str(os.getpid())):
        Writer(store).__enter__()


def test_failures_and_slowest(store):
    fill(store, rows([0, 1], [2, 3]), *(rows([i], seconds=i) for i in range(2, 20)))
    row = store.failures()[1]
    assert (row.id, row.outcome, row.message) == (1, Outcome.INVALID, "broke at 1")
    np.testing.assert_array_equal(row.theta, rows([1]).theta[0])
    assert [(row.id, row.seconds) for row in store.slowest(2)] == [(19, 19.0), (18, 18.0)]
    assert store.failures(budget=1)[0].traceback == "Traceback"


def test_zarr_reads_a_shard_and_a_shard_laid_out_otherwise_is_read(store, tmp_path):
    import zarr

    fill(store, rows(np.arange(50)))
    path = next((store.path / "shards").iterdir())
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["x/x"][:], rows(np.arange(50)).x["x"])
    other = zarr.create_group(tmp_path / "chunked", zarr_format=3)
    for name, array in group.arrays():
        other.create_array(name, data=array[:], chunks=(7, *array.shape[1:]))
    for name in ("x", "count"):
        other.create_array(f"x/{name}", data=group[f"x/{name}"][:])
    zarr.consolidate_metadata(tmp_path / "chunked")
    plain, chunked = Shard(path), Shard(tmp_path / "chunked")
    assert not chunked.arrays["id"][2]
    for name in plain.arrays:
        np.testing.assert_array_equal(plain.read(name, 5, 31), chunked.read(name, 5, 31))
    assert chunked.intact().all()
