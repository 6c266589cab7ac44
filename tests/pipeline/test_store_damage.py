"""Flipped bytes, lost files, full and read-only disks."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.store import (
    DamagedError,
    Failure,
    Outcome,
    Rows,
    Schema,
    Spool,
    Store,
    Writer,
    export,
    repair,
    to_numpy,
    verify,
)

IDENTITY = {"prior": {"a": {}, "b": {}}, "seed": 1}
SCHEMA = Schema({"x": ("<f8", (2,)), "path": ("<f4", (5,))}, frozenset({"path"}))
N = 40


def rows(ids, width=2):
    ids = np.asarray(ids, np.int64)
    outcome = np.where(ids % 9 == 4, Outcome.TIMEOUT, Outcome.OK).astype("u1")
    good = outcome == Outcome.OK
    lengths = np.where(good, ids % 4, 0)
    path = np.where(np.arange(3) < lengths[:, None], ids[:, None] + 0.5, 0).astype("f4")
    x = {"x": good[:, None] * np.sin(ids[:, None] + np.arange(width)), "path": path}
    failures = tuple(Failure(int(i), Outcome.TIMEOUT, f"slow {i}") for i in ids[~good])
    theta = np.cos(ids[:, None] + [0.0, 1.0])
    return Rows(ids, theta, x, {"path": lengths}, outcome, np.ones(len(ids), "f4"), failures)


def simulate(store, budget=N):
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        missing = store.missing(budget)
        with Spool(writer.spool_directory, "a", SCHEMA, 16) as spool:
            if len(missing):
                spool.append(rows(missing))
    return missing


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    store = Store.create(tmp_path_factory.mktemp("sound") / "store", IDENTITY, shard_bytes=1024)
    simulate(store)
    assert verify(store) == []
    return store


def copy(sound, tmp_path):
    return Store.open(shutil.copytree(sound.path, tmp_path / "copy"))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


def files_of_a_shard():
    names = ["manifest.json", "zarr.json", "failures.json", "x/zarr.json"]
    for name, dimensions in {"id": 1, "theta": 2, "outcome": 1, "seconds": 1, "hash": 2,
                             "x/x": 2, "x/path": 2, "lengths/path": 1}.items():  # fmt: skip
        names += [f"{name}/zarr.json", f"{name}/c/" + "/".join("0" * dimensions)]
    return [*names, "lengths/zarr.json"]


@pytest.mark.parametrize("name", files_of_a_shard())
def test_a_flipped_byte_in_any_file_is_found_and_mended(sound, tmp_path, name):
    size = (sound.path / "shards/000001" / name).stat().st_size
    for place in (0, size // 2, size - 1):
        store = copy(sound, tmp_path)
        flip(store.path / "shards/000001" / name, place)
        problems = verify(Store.open(store.path))
        expected = name if not name.endswith("manifest.json") else "manifest.json"
        assert ("000001", expected) in {(problem.shard, problem.file) for problem in problems}
        lost = repair(store)
        assert verify(store) == []
        np.testing.assert_array_equal(store.missing(N), lost)
        assert len(lost) <= 16
        if "/c/" in name and not name.startswith("seconds"):
            assert 1 <= len(lost) <= 2, "only the rows that are damaged are simulated again"
        np.testing.assert_array_equal(simulate(store), lost)
        assert store.digest() == sound.digest()
        messages = [(row.id, row.message) for row in store.failures()]
        assert messages == [(row.id, row.message) for row in sound.failures()]
        shutil.rmtree(store.path)


def test_the_list_of_files_above_is_complete(sound):
    shard = sound.path / "shards/000001"
    present = {str(path.relative_to(shard)) for path in shard.rglob("*") if path.is_file()}
    assert present == set(files_of_a_shard())


@pytest.mark.parametrize(
    "name", ["manifest.json", "zarr.json", "id/c/0", "x/x/c/0/0", "failures.json"]
)
def test_a_missing_or_short_or_extra_file_is_found_and_mended(sound, tmp_path, name):
    for harm in (lambda path: path.unlink(), lambda path: os.truncate(path, 5),
                 lambda path: path.with_name("extra").write_text("?")):  # fmt: skip
        store = copy(sound, tmp_path)
        harm(store.path / "shards/000000" / name)
        assert verify(store)
        repair(store)
        simulate(store)
        assert verify(store) == []
        assert store.digest() == sound.digest()
        shutil.rmtree(store.path)


def test_repair_meets_a_dead_session_and_a_shard_that_cannot_be_opened(sound, tmp_path):
    store = copy(sound, tmp_path)
    dead = Writer(store)
    dead.acquire()
    with Spool(dead.spool_directory, "a", SCHEMA, 16) as spool:
        spool.append(rows([N, N + 1]))
    os.close(dead._lock)
    (store.path / "shards/000002/zarr.json").unlink()
    with pytest.raises(DamagedError, match="000002"):
        to_numpy(Store.open(store.path))
    repair(store)
    assert {N, N + 1} <= set(store.ids().tolist())
    simulate(store)
    assert store.digest(N) == sound.digest()


def test_shard_numbers_are_never_used_again(sound, tmp_path):
    store = copy(sound, tmp_path)
    shutil.rmtree(store.path / "shards/000002/id")
    repair(store)
    simulate(store)
    assert sorted(path.name for path in (store.path / "shards").iterdir()) == [
        "000000", "000001", "000003"
    ]  # fmt: skip
    assert next((store.path / "quarantine").iterdir()).name.startswith("000002-")


def test_rows_that_lie_elsewhere_too_are_not_lost(sound, tmp_path):
    store = copy(sound, tmp_path)
    killed = Writer(store)
    killed.acquire()
    with Spool(killed.spool_directory, "b", SCHEMA, 40) as spool:
        spool.append(rows(np.arange(40)))  # a whole shard, published although all is stored
    killed.publish()
    os.close(killed._lock)
    assert len(list((store.path / "shards").iterdir())) == 4
    assert verify(store) == []
    shutil.rmtree(store.path / "shards/000000/x")
    assert len(repair(store)) == 0
    assert store.digest() == sound.digest()


def test_two_different_results_for_one_id_are_found(sound, tmp_path):
    store = copy(sound, tmp_path)
    other = rows(np.arange(16))
    other.theta[5] += 1
    with Writer(store) as writer, Spool(writer.spool_directory, "b", SCHEMA, 16) as spool:
        spool.append(other)
    assert ["id 5 is in 000000 too" in str(problem) for problem in verify(store)] == [True]


def test_a_damaged_schema_is_restored_by_the_next_writer(sound, tmp_path):
    store = copy(sound, tmp_path)
    flip(store.path / "schema.json", 20)
    with pytest.raises(DamagedError, match=r"schema\.json is damaged.*` restores it"):
        assert Store.open(store.path).schema
    with Writer(Store.open(store.path)):
        pass
    assert Store.open(store.path).schema == SCHEMA
    assert Store.open(store.path).digest() == sound.digest()


def test_a_damaged_schema_is_restored_from_rows_that_are_in_no_shard(tmp_path):
    store = Store.create(tmp_path / "store", IDENTITY)
    writer = Writer(store)
    writer.acquire()
    writer.set_schema(SCHEMA)
    with Spool(writer.spool_directory, "a", SCHEMA, 1000) as spool:
        spool.append(rows(range(N)))
    writer.release()  # as by a driver that was killed: the spool stays
    flip(store.path / "schema.json", 20)
    with Writer(Store.open(store.path)):
        pass
    assert Store.open(store.path).schema == SCHEMA
    assert Store.open(store.path).counts(N)["missing"] == 0


def test_damaged_schema_and_identity(sound, tmp_path):
    store = copy(sound, tmp_path)
    flip(store.path / "schema.json", 20)
    fresh = Store.open(store.path)
    assert [problem.file for problem in verify(fresh)] == ["schema.json"]
    with pytest.raises(DamagedError, match=r"schema\.json is damaged"):
        to_numpy(fresh)
    assert len(repair(fresh)) == 0
    assert Store.open(store.path).schema == SCHEMA
    (store.path / "schema.json").unlink()
    assert [problem.message for problem in verify(Store.open(store.path))] == ["is missing"]
    with pytest.raises(DamagedError, match=r"schema\.json is missing; .*repair.* restores it"):
        to_numpy(Store.open(store.path))
    flip(store.path / "store.json", 30)
    with pytest.raises(DamagedError, match=r"store\.json is damaged"):
        Store.open(store.path)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: full and read-only disks need root and mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


WIDE = Schema({"x": ("<f8", (512,)), "path": ("<f4", (5,))}, frozenset({"path"}))


@pytest.mark.parametrize("per_shard", [1000, 16])  # the disk fills up in the spool, or in a shard
def test_a_full_disk_is_said_and_the_run_goes_on(small_disk, tmp_path, per_shard):
    store, ballast = (
        Store.create(small_disk / "store", IDENTITY),
        small_disk / "ballast",
    )
    budget = 100
    ballast.write_bytes(bytes(700_000))

    def attempt():
        with Writer(store) as writer:
            writer.set_schema(WIDE)
            with Spool(writer.spool_directory, "a", WIDE, per_shard) as spool:
                for number in store.missing(budget):
                    spool.append(rows([number], 512))
                    appended.append(number)
                    writer.publish()

    appended: list[int] = []
    with pytest.raises(PipelineError, match="disk is full: free some space"):
        attempt()
    assert 0 < len(appended) < budget
    reader = Store.open(store.path)
    assert reader.counts(budget)["done"] == len(appended), "what append returned is kept"
    assert verify(reader) == []
    ballast.unlink()
    attempt()
    assert verify(store) == []
    whole = Store.create(tmp_path / "whole", IDENTITY)
    store, full = whole, store
    attempt()
    assert full.digest() == whole.digest()


def test_a_read_only_disk_is_read_and_refused_for_writing(small_disk):
    store = Store.create(small_disk / "store", IDENTITY)
    simulate(store)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reader = Store.open(store.path)
    assert reader.counts(N)["done"] == N
    assert verify(reader) == []
    with pytest.raises(PipelineError, match="read-only: make it writable"):
        simulate(reader, N + 5)
    with pytest.raises(PipelineError, match="read-only"):
        Store.create(small_disk / "other", IDENTITY)
    with pytest.raises(PipelineError, match="read-only"):
        export(reader, small_disk / "out.npz")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert len(simulate(reader, N + 5)) == 5


def test_the_description_of_another_stream_is_refused(tmp_path):
    """It is intact, so no checksum can tell."""
    for stream in ("train", "test"):
        Store.create(tmp_path / stream, IDENTITY | {"stream": stream})
    shutil.copy(tmp_path / "test" / "store.json", tmp_path / "train" / "store.json")
    with pytest.raises(DamagedError, match=r"store\.json is not of this store, but of 'test'"):
        Store.open(tmp_path / "train")
    Store.open(tmp_path / "test")
