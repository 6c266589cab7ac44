"""What is read for training, evaluation and export was compared with what was written: never other data."""

from __future__ import annotations

import re
import shutil
from itertools import islice

import numpy as np
import pytest

from pipeline.evaluate.simulations import TestSimulations
from pipeline.store import (
    DamagedError,
    Failure,
    Outcome,
    Rows,
    Schema,
    Store,
    export,
    to_dask,
    to_numpy,
    verify,
)
from pipeline.store import hash as hashing
from pipeline.store.shard import write_shard
from pipeline.train.batches import Order, StreamedBatches
from pipeline.train.dataset import Table

N, PER = 40, 8
IDENTITY = {"prior": {"a": {}, "b": {}}, "seed": 1}
SCHEMA = Schema({"x": ("<f8", (2,)), "path": ("<f4", (5,))}, frozenset({"path"}))
DATA = ("id/c/0", "theta/c/0/0", "outcome/c/0", "seconds/c/0", "hash/c/0/0",
        "x/x/c/0/0", "x/path/c/0/0", "lengths/path/c/0")  # fmt: skip
FILES = (*DATA, "manifest.json", "failures.json", "zarr.json", "x/x/zarr.json")


def rows(ids):
    ids = np.asarray(ids, np.int64)
    outcome = np.where(ids % 8 == 4, Outcome.TIMEOUT, Outcome.OK).astype("u1")
    good = outcome == Outcome.OK
    lengths = np.where(good, ids % 4, 0)
    path = np.where(np.arange(3) < lengths[:, None], ids[:, None] + 0.5, 0).astype("f4")
    x = {"x": good[:, None] * np.sin(ids[:, None] + np.arange(2)), "path": path}
    failures = tuple(Failure(int(i), Outcome.TIMEOUT, f"slow {i}") for i in ids[~good])
    theta = np.cos(ids[:, None] + [0.0, 1.0])
    return Rows(ids, theta, x, {"path": lengths}, outcome, np.ones(len(ids), "f4"), failures)


def make(path, shift=0.0):
    """RUN/store/train with five shards of consecutive ids, `shift` is what another seed would change."""
    store = Store.create(path / "store/train", IDENTITY, SCHEMA, 1024)
    for number in range(N // PER):
        batch = rows(np.arange(number * PER, (number + 1) * PER))
        batch.theta[:] += shift
        write_shard(batch, store.path / "new", store.path / f"shards/{number:06d}")
    return store


def arrays(batch):
    return [batch.theta.numpy(), *(batch.x[name].numpy() for name in sorted(batch.x))]


def streamed(store):
    table = Table.of(store, N, 0.2)
    return [a for batch in islice(StreamedBatches(table, Order(0, 4)), 6) for a in arrays(batch)]


def resident(store):
    table = Table.of(store, N, 0.2)
    return [*arrays(table.gather(table.train)), *arrays(table.validation_batch())]


def held_out(store):
    sets = TestSimulations.read(store, N, {"x": (2,), "path": (3,)})
    return [sets.ids, sets.theta, *(x["x"] for x in sets.x), *sets.inputs.values()]


def as_arrays(store):
    ids, theta, x, lengths = to_numpy(store)
    return [ids, theta, *x.values(), *lengths.values()]


def lazily(store):
    ids, theta, x, lengths = to_dask(store)
    return [a.compute(scheduler="sync") for a in (ids, theta, *x.values(), *lengths.values())]


def exported(store):
    with np.load(export(store, store.path.parent / "out.npz")) as file:
        return [file[name] for name in sorted(file.files)]


def by_id(store):
    found = store.rows(np.arange(N)[::-1])
    return [*found.columns().values(), np.array([failure.message for failure in found.failures])]


def stated(store):
    slow = [(row.id, row.seconds) for row in store.slowest(3)]
    return [store.parameters()[1], np.array([store.digest()]), np.array(slow)]


READS = {
    f.__name__: f
    for f in (streamed, resident, held_out, as_arrays, lazily, exported, by_id, stated)
}


def look(store):
    """What every way of reading says: arrays, or an error."""
    found = {}
    for name, read in READS.items():
        try:
            found[name] = read(Store.open(store.path))
        except DamagedError as error:
            found[name] = str(error)
    return found


def same(found, expected):
    return all(map(np.array_equal, found, expected)) and len(found) == len(expected)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    store = make(tmp_path_factory.mktemp("sound"))
    return store, look(store)


def check(store, expected, shard):
    """Nothing reads other data, and whoever cannot read says which shard, and what mends it."""
    found = look(store)
    run = store.path.parent.parent
    for name, result in found.items():
        if isinstance(result, str):
            assert re.search(f"{shard}.* is damaged.*`sbiflow store repair -o {run}`", result), name
        else:
            assert same(result, expected[name]), name
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_changes_no_result(sound, tmp_path, name):
    original, expected = sound
    store = Store.open(shutil.copytree(original.path, tmp_path / "run/store/train"))
    path = store.path / "shards/000001" / name
    content = path.read_bytes()
    failed = set()
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        found = check(store, expected, "000001")
        failed |= {reader for reader, result in found.items() if isinstance(result, str)}
    if name == "manifest.json":
        assert failed == set(READS)
    if name in ("theta/c/0/0", "x/x/c/0/0", "lengths/path/c/0", "hash/c/0/0"):
        assert {"streamed", "resident", "held_out", "as_arrays", "exported", "by_id"} <= failed


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_shard_or_store_changes_no_result(sound, tmp_path, name):
    original, expected = sound
    other = make(tmp_path / "other", shift=1.0)
    for source in (original.path / "shards/000002", other.path / "shards/000001"):
        store = Store.open(shutil.copytree(original.path, tmp_path / "run/store/train"))
        shutil.copy(source / name, store.path / "shards/000001" / name)
        if (
            name == "theta/c/0/0"
        ):  # rows that match their hashes, which are not those that were written
            shutil.copy(source / "hash/c/0/0", store.path / "shards/000001/hash/c/0/0")
        if name != "manifest.json":
            check(store, expected, "000001")
        shutil.rmtree(store.path)


def test_compiled_and_plain_checks_agree(sound, monkeypatch):
    original, expected = sound
    monkeypatch.setattr(hashing, "COMPILED_FROM", 0)
    assert all(same(result, expected[name]) for name, result in look(original).items())
    whole = original.rows(np.arange(N))
    hashes = hashing.row_hashes(whole)
    assert hashing.check(whole, hashes)
    for column in whole.columns().values():
        if column is whole.seconds:
            continue
        bits = column.reshape(-1).view(np.uint8)
        for place in range(0, len(bits), 7):
            bits[place] ^= 1 << (place % 8)
            assert not hashing.check(whole, hashes)
            bits[place] ^= 1 << (place % 8)


def test_shards_of_format_1_are_read_and_verified(sound, tmp_path):
    from pipeline.files import read_document, write_document

    original, expected = sound
    store = Store.open(shutil.copytree(original.path, tmp_path / "run/store/train"))
    for path in store.path.glob("shards/*/manifest.json"):
        spec = read_document(path)
        old = {"format": 1, **{key: spec[key] for key in ("rows", "ids", "files")}}
        write_document(path, old)
    found = check(store, expected, "")
    assert not any(isinstance(result, str) for result in found.values())
    assert verify(store) == []
    for name in ("id/c/0", "outcome/c/0", "hash/c/0/0", "theta/c/0/0"):
        path = store.path / "shards/000001" / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
        assert any(isinstance(result, str) for result in check(store, expected, "000001").values())
        path.write_bytes(content)


def test_many_runs_are_read_from_the_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.store.manifest.MOST_RUNS", 2)
    store = make(tmp_path / "a")
    shard = store.index.shards[0]
    assert shard.manifest.runs is None  # ids 0..7, of which 4 timed out
    assert store.counts(N)["timeout"] == 5
    monkeypatch.undo()
    plain = make(tmp_path / "b")
    assert plain.index.shards[0].manifest.runs is not None
    for mine, theirs in zip(store.index.columns, plain.index.columns, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert store.digest(13) == plain.digest(13)


def test_a_later_format_is_refused(sound, tmp_path):
    from pipeline.errors import PipelineError
    from pipeline.files import read_document, write_document

    store = Store.open(shutil.copytree(sound[0].path, tmp_path / "store"))
    path = store.path / "shards/000001/manifest.json"
    write_document(path, read_document(path) | {"format": 3})
    with pytest.raises(PipelineError, match="shard format 3, this version reads up to 2: update"):
        store.ids()


def test_opening_and_the_digest_rest_on_the_manifests_alone(sound, tmp_path):
    store = Store.open(shutil.copytree(sound[0].path, tmp_path / "store"))
    for path in store.path.rglob("c"):
        shutil.rmtree(path)
    assert store.digest() == sound[0].digest()
    assert store.counts(N) == sound[0].counts(N)
    assert [view.ids.tolist() for view in store.shards()] == [
        view.ids.tolist() for view in sound[0].shards()
    ]


def test_a_still_store_shows_what_was_there(tmp_path):
    store = make(tmp_path)
    still = store.snapshot()
    write_shard(rows(np.arange(N, N + 3)), store.path / "new", store.path / "shards/000005")
    assert len(store.ids()) == N + 3
    assert len(still.ids()) == N
    assert still.digest() == store.digest(N) != store.digest()
