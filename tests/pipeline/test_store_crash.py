"""Whatever is killed, and whenever: no returned row is lost, none is doubled, the digest is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.store import (
    Failure,
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

ROOT = Path(__file__).parents[2]
IDENTITY = {"prior": {"a": {}, "b": {}}, "seed": 1}
SCHEMA = Schema({"x": ("<f4", (2,)), "path": ("<f8", (9, 2))}, frozenset({"path"}))
N = 60


def rows(ids):
    """Simulations that follow from the id: some fail, `path` varies in length."""
    ids = np.asarray(ids, np.int64)
    outcome = np.where(ids % 7 == 3, Outcome.FAILED, Outcome.OK).astype("u1")
    good = outcome == Outcome.OK
    lengths = np.where(good, ids % 5, 0)
    path = np.zeros((len(ids), 4, 2))
    inside = np.arange(4) < lengths[:, None]
    path[inside] = (ids[:, None] * np.ones(4))[inside][:, None] + [0.5, 0.25]
    x = {"x": (good[:, None] * np.sin(ids[:, None] + [0, 1])).astype("f4"), "path": path}
    failures = tuple(Failure(int(i), Outcome.FAILED, f"no {i}") for i in ids[~good])
    theta = np.cos(ids[:, None] + [0.0, 1.0])
    return Rows(ids, theta, x, {"path": lengths}, outcome, np.ones(len(ids), "f4"), failures)


def complete(store):
    """What the simulate stage does: adopt, simulate what is missing, merge."""
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        with Spool(writer.spool_directory, "last", SCHEMA, 16) as spool:
            if len(missing := store.missing(N)):
                spool.append(rows(missing))
    return store


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    store = complete(Store.create(tmp_path_factory.mktemp("quiet") / "store", IDENTITY))
    return store.digest(), to_numpy(store)


def check(store, quiet):
    digest, (ids, theta, x, lengths) = quiet
    complete(store)
    assert store.digest() == digest
    assert store.counts(N)["missing"] == 0
    assert verify(store) == []
    assert sum(len(view) for view in store.shards()) == len(ids)
    again = to_numpy(store)
    np.testing.assert_array_equal(again[1], theta)
    for name in x:
        np.testing.assert_array_equal(again[2][name], x[name])
    np.testing.assert_array_equal(again[3]["path"], lengths["path"])
    assert sorted(row.id for row in store.failures()) == [i for i in range(N) if i % 7 == 3]
    assert list((store.path / "sessions").iterdir()) == []


session = st.fixed_dictionaries(
    {
        "per_shard": st.sampled_from([3, 16, 64]),
        "batches": st.lists(
            st.tuples(
                st.integers(0, 2),  # actor
                st.lists(st.integers(0, N - 1), min_size=1, max_size=20, unique=True),
            ),
            max_size=6,
        ),
        "publish": st.booleans(),
        "cut": st.one_of(st.none(), st.floats(0, 1)),  # part of a spool that a kill leaves
        "flip": st.booleans(),
        "litter": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sessions=st.lists(session, max_size=3))
def test_any_history_gives_the_same_digest(sessions, quiet):
    memory = Path("/dev/shm")  # many small shards: no waiting for the device
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        store = Store.create(Path(folder) / "store", IDENTITY)
        for history in sessions:
            interrupted_session(store, history)
        check(store, quiet)


def interrupted_session(store, history):
    writer = Writer(store).__enter__()
    writer.set_schema(SCHEMA)
    spools = [
        Spool(writer.spool_directory, f"actor-{k}", SCHEMA, history["per_shard"]) for k in range(3)
    ]
    for actor, ids in history["batches"]:
        spools[actor].append(rows(ids))
    durable = set(np.concatenate([np.zeros(0, int), *(ids for _, ids in history["batches"])]))
    assert store.counts()["done"] >= len(durable)
    if history["publish"]:
        writer.publish()
    for spool in spools:
        os.close(spool._handle)  # what a SIGKILL does
        spool._handle = -1
    if history["cut"] is not None:
        content = spools[0].path.read_bytes()
        content = bytearray(content[: int(len(content) * history["cut"])])
        if history["flip"] and content:
            content[len(content) // 2] ^= 8
        spools[0].path.write_bytes(content)
    if history["litter"]:
        (writer.spool_directory / "actor-0-000009.partial" / "x").mkdir(parents=True)
        (writer.spool_directory / "actor-1.fresh").write_bytes(b"half")
    os.close(writer._lock)


def test_an_actor_continues_the_spool_of_its_predecessor(tmp_path, quiet):
    store = Store.create(tmp_path / "store", IDENTITY)
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        first = Spool(writer.spool_directory, "a", SCHEMA, 64)
        first.append(rows([1, 2]))
        with pytest.raises(LockedError, match="living worker"):
            Spool(writer.spool_directory, "a", SCHEMA, 64)
        os.pwrite(first._handle, b"SBI1 half a record", first._end)
        os.close(first._handle)
        with Spool(writer.spool_directory, "a", SCHEMA, 64) as second:
            second.append(rows([3]))
    assert store.ids().tolist() == [1, 2, 3]
    check(store, quiet)


def test_the_actor_of_a_dead_session_fails_and_harms_nothing(tmp_path, quiet):
    store = Store.create(tmp_path / "store", IDENTITY)
    dead = Writer(store)
    dead.acquire()
    dead.set_schema(SCHEMA)
    orphans = [Spool(dead.spool_directory, name, SCHEMA, 4) for name in "abc"]
    for orphan, ids in zip(orphans, ([0, 1], [2], [3]), strict=True):
        orphan.append(rows(ids))
    os.close(dead._lock)  # the driver is gone, its actors live on
    with Writer(store) as writer:
        assert store.ids().tolist() == [0, 1, 2, 3]
        for orphan, ids in zip(orphans, ([4], [5, 6, 7], range(8, 20)), strict=True):
            with pytest.raises(PipelineError, match=r"taken over|gone"):
                orphan.append(rows(list(ids)))
        assert len(list(writer.spool_directory.parent.iterdir())) == 1
    check(store, quiet)


WRITER = """
import os, sys, random, subprocess, time
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from test_store_crash import *
store = Store.open(sys.argv[1])
if len(sys.argv) > 2:
    ids, chance = list(map(int, sys.argv[4:])), random.Random()
    with Spool(sys.argv[2], sys.argv[3], SCHEMA, 16) as spool:
        while ids:
            n = chance.choice([1, 1, 2, 5, 40])
            spool.append(rows(ids[:n]))
            print(*ids[:n], flush=True)
            ids = ids[n:]
else:
    with Writer(store) as writer:
        writer.set_schema(SCHEMA)
        missing = store.missing(N).tolist()
        command = [sys.executable, __file__, sys.argv[1], str(writer.spool_directory)]
        actors = [subprocess.Popen([*command, f"a{{k}}", *map(str, missing[k::2])]) for k in (0, 1)]
        print("actors", *(actor.pid for actor in actors), flush=True)
        while any(actor.poll() is None for actor in actors):
            writer.publish()
            time.sleep(0.005)
"""


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.nightly)])
def test_real_kills_of_driver_and_actors(tmp_path, quiet, kills):
    """Drivers and their two actors die at random times; what an actor reported is never lost."""
    script, chance = tmp_path / "driver.py", random.Random(kills)
    script.write_text(WRITER.format(root=str(ROOT), here=str(Path(__file__).parent)))
    store = Store.create(tmp_path / "store", IDENTITY)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reported: set[int] = set()
    for number in range(kills):
        log = tmp_path / "log"
        with open(log, "wb") as output:
            driver = subprocess.Popen(
                [sys.executable, script, store.path], stdout=output, env=environment
            )
        started, actors = time.monotonic(), []
        while driver.poll() is None and not actors and time.monotonic() < started + 60:
            time.sleep(0.01)
            lines = log.read_text().splitlines()
            actors = [int(pid) for line in lines if "actors" in line for pid in line.split()[1:]]
        time.sleep(chance.uniform(0.3, 1.6))
        victims = [driver.pid, *actors] if number % 2 else [*actors, driver.pid]
        for pid in victims:  # half of the time the actors outlive the driver for a moment
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        driver.wait()
        lines = [line for line in log.read_text().splitlines() if line[:1].isdigit()]
        reported |= {int(number) for line in lines for number in line.split()}
        done = Store.open(store.path)
        assert done.counts(N)["done"] >= len(reported)
        if not len(done.missing(N)):  # start again, so that every kill meets work
            check(done, quiet)
            shutil.rmtree(store.path)
            store, reported = Store.create(store.path, IDENTITY), set()
    check(Store.open(store.path), quiet)
