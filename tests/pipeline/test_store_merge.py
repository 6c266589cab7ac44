"""Small shards are merged: the same digest, whatever is killed, and readers see the same rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from pipeline.store import Failure, Outcome, Rows, Schema, Store, Writer, to_numpy, verify
from pipeline.store import merge as merging
from pipeline.store.shard import write_shard

IDENTITY = {"prior": {"a": {}, "b": {}}, "seed": 1}
SCHEMA = Schema({"x": ("<f4", (2,)), "path": ("<f8", (1,))}, frozenset({"path"}))
TARGET = 64


def rows(ids, outcome=None):
    ids = np.asarray(ids, np.int64)
    outcome = np.where(ids % 7 == 3, Outcome.FAILED, Outcome.OK) if outcome is None else outcome
    outcome = np.broadcast_to(outcome, ids.shape).astype("u1")
    good = outcome == Outcome.OK
    lengths = np.where(good, ids % 3, 0)
    path = np.where(np.arange(2) < lengths[:, None], ids[:, None] + 0.5, 0.0)
    x = {"x": (good[:, None] * np.sin(ids[:, None] + [0, 1])).astype("f4"), "path": path}
    failures = tuple(Failure(int(i), Outcome.FAILED, f"no {i}") for i in ids[~good])
    theta = np.cos(ids[:, None] + [0.0, 1.0])
    return Rows(ids, theta, x, {"path": lengths}, outcome, (ids % 5).astype("f4"), failures)


def create(path):
    store = Store.create(path, IDENTITY, SCHEMA, 8192)
    assert SCHEMA.rows_per_shard(2, 8192) >= TARGET
    return store


def add(store, *batches):
    """Publish each batch as a shard of its own."""
    with Writer(store) as writer:
        for batch in batches:
            writer.place(batch)


def put(store, *ends):
    """Publish ids up to each of the ends as a shard, with no writer to merge them."""
    for number, (start, stop) in enumerate(pairwise([0, *ends])):
        final = store.path / f"shards/{number:06d}"
        write_shard(rows(np.arange(start, stop)), store.path / "new", final)


def whole(store):
    ids, theta, x, lengths = to_numpy(store)
    failures = [(row.id, row.message, row.seconds) for row in store.failures()]
    return store.digest(), [ids, theta, *x.values(), *lengths.values()], failures


def same(one, other):
    return one[0] == other[0] and one[2] == other[2] and all(map(np.array_equal, one[1], other[1]))


def sizes(store):
    return [len(shard) for shard in Store.open(store.path).index.shards]


@pytest.fixture
def memory(tmp_path):
    """A folder that waits for no device."""
    return tmp_path if not os.path.isdir("/dev/shm") else _shared(tmp_path)


def _shared(tmp_path):
    from tempfile import mkdtemp

    (tmp_path / "link").symlink_to(mkdtemp(dir="/dev/shm"))
    return tmp_path / "link"


@pytest.fixture(autouse=True)
def _clean(tmp_path):
    yield
    if (tmp_path / "link").exists():
        shutil.rmtree((tmp_path / "link").resolve())


def test_a_store_that_grows_in_small_steps_has_few_files(memory, monkeypatch):
    written: list[int] = []
    merged = merging._merged

    def counted(group, *rest):
        written.append(sum(part.rows for part in group))
        return merged(group, *rest)

    monkeypatch.setattr(merging, "_merged", counted)
    store, step = create(memory / "store"), 3
    limit = Writer(store).rows_per_shard(SCHEMA)
    most = 0
    for start in range(0, 360, step):
        add(store, rows(np.arange(start, start + step)))
        found = sizes(store)
        small = sum(size for size in found if size < limit / 4)
        assert small <= 0.02 * sum(found) or len(found) <= np.log2(limit)
        assert sum(found) == start + step
        most = max(most, len(found))
    assert most <= 360 / (limit / 4) + np.log2(limit)
    assert max(sizes(store)) <= 1.25 * limit
    assert sum(written) < 60 * 360
    quiet = create(memory / "quiet")
    add(quiet, rows(np.arange(360)))
    assert same(whole(store), whole(quiet))
    assert verify(store) == []
    assert not (store.path / "merged").exists()
    assert [row.id for row in store.slowest(4)] == [4, 9, 14, 19]


def test_rows_that_do_not_count_are_left_out_and_later_results_still_win(tmp_path):
    store = create(tmp_path / "store")
    limit = Writer(store).rows_per_shard(SCHEMA)
    add(store, rows(np.arange(10)), rows(np.arange(100, 100 + limit)), rows([3], Outcome.OK))
    quiet = create(tmp_path / "quiet")
    add(quiet, rows([3], Outcome.OK), rows([*range(3), *range(4, 10), *range(100, 100 + limit)]))
    assert same(whole(store), whole(quiet))
    assert sum(sizes(store)) == len(store.ids()) == 10 + limit


def test_two_results_of_one_id_stay_to_be_told(tmp_path):
    store = create(tmp_path / "store")
    other = rows(np.arange(4))
    other.theta[1] += 1
    add(store, rows(np.arange(4)), other)
    assert ["id 1 is in" in str(problem) for problem in verify(store)] == [True]


def test_damaged_shards_are_not_merged(tmp_path):
    store = create(tmp_path / "store")
    add(store, rows(np.arange(30)))
    path = store.path / "shards/000000/x/x/c/0/0"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    add(store, rows(np.arange(30, 60)))
    assert sizes(store) == [30, 30]
    assert {problem.shard for problem in verify(store)} == {"000000"}


def interrupted(store, step):
    """Add a shard in a process that dies at its `step`-th operation on files; return whether it did."""
    pid = os.fork()
    if not pid:
        left = [step]

        def die(event, _):
            if event in EVENTS:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(die)
        try:
            add(Store.open(store.path), rows(np.arange(30, 40)))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_loses_and_doubles_nothing(memory, stride):
    begun = create(memory / "begun")
    put(begun, 15, 30)
    quiet = create(memory / "quiet")
    add(quiet, rows(np.arange(40)))
    expected, killed = whole(quiet), 0
    for step in range(0, 1000, stride):
        store = Store.open(shutil.copytree(begun.path, memory / "copy"))
        died = interrupted(store, step)
        reader = Store.open(store.path)
        done = reader.counts(40)["done"]
        assert done in (30, 40)
        assert verify(reader) == []
        if len(reader.ids()) == 40:
            assert same(whole(reader), expected)
        if died:
            missing = reader.missing(40)
            del reader
            add(store, *([rows(missing)] if len(missing) else []))
        assert same(whole(Store.open(store.path)), expected)
        assert sizes(store) == [40]
        assert os.listdir(store.path / "sessions") == []
        assert not (store.path / "merged").exists()
        shutil.rmtree(store.path)
        if not died:
            break
        killed += 1
    assert killed > 40 / stride


READER = """
import sys, numpy as np
from pipeline.store import Store, to_numpy
store = Store.open(sys.argv[1])
views, before = store.shards(), store.snapshot()
print("ready", flush=True)
sys.stdin.readline()
ids = np.concatenate([view.read().ids for view in views])
print(len(ids), before.digest() == store.digest(40), len(to_numpy(before)[0]), flush=True)
"""


def test_readers_are_not_disturbed(tmp_path):
    store = create(tmp_path / "store")
    put(store, 10, 20, 30, 40)
    reader = Store.open(store.path).snapshot()
    views, expected = reader.shards(), whole(reader)
    other = subprocess.Popen(
        [sys.executable, "-c", READER, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "ready\n"
    for number in range(3):
        add(store, rows([40 + number]))
    assert sizes(store) == [43]
    assert len(os.listdir(store.path / "merged")) >= 4
    assert same(whole(reader), expected)
    assert sum(len(view.read()) for view in views) == len(expected[1][0])
    output, _ = other.communicate("go\n")
    assert output == f"{len(expected[1][0])} True {len(expected[1][0])}\n"
    del reader
    add(store, rows([50]))
    assert (store.path / "merged").exists()  # the views still need it
    del views
    add(store)
    assert not (store.path / "merged").exists()
