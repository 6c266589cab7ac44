"""Plans of shared work, and writers that share a store."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import (
    DamagedError,
    PipelineError,
    UsageError,
)
from pipeline.simulate.leases.plan import BlockPlan
from pipeline.simulate.leases.shared_writer import SharedWriter
from pipeline.store import Rows, Schema, Spool, Store, Writer, verify
from pipeline.store.ranges import Ranges


@pytest.mark.parametrize("key", [1, 10])
def test_a_plan_cuts_every_id_into_one_block_and_keeps_keys_whole(tmp_path: Path, key: int) -> None:
    ids = np.setdiff1d(np.arange(500), [3, 77, *range(200, 260)])
    BlockPlan.of(Ranges.of(ids), key, 40).write(tmp_path / "plan.json", "abc")
    plan = BlockPlan.read(tmp_path / "plan.json", "abc")
    blocks = [plan.block(k) for k in range(len(plan))]
    assert len(plan) == 40
    assert np.array_equal(np.concatenate(blocks), ids)
    assert all(np.all(plan.blocks_of(block) == k) for k, block in enumerate(blocks))
    keys = [number for block in blocks for number in np.unique(block // key)]
    assert len(keys) == len(set(keys))


def test_a_plan_of_few_ids_or_none(tmp_path: Path) -> None:
    assert [len(BlockPlan.of(Ranges.of(np.arange(n)), 1, 8)) for n in (0, 1, 5, 8, 9)] == [
        0,
        1,
        5,
        8,
        8,
    ]
    BlockPlan.of(Ranges.of(np.arange(0)), 1, 8).write(tmp_path / "plan.json", "")
    assert len(BlockPlan.read(tmp_path / "plan.json", "").ids) == 0


def test_another_code_is_refused(tmp_path: Path) -> None:
    BlockPlan.of(Ranges.of(np.arange(3)), 1, 3).write(tmp_path / "plan.json", "abc")
    with pytest.raises(PipelineError, match=r"simulator's source differs"):
        BlockPlan.read(tmp_path / "plan.json", "abd")


def test_a_plan_with_a_changed_byte_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    BlockPlan.of(Ranges.of(np.arange(9)), 1, 3).write(path, "abc")
    text = path.read_text()
    path.write_text(text.replace("9", "8", 1))
    with pytest.raises(DamagedError, match=r"plan\.json is damaged"):
        BlockPlan.read(path, "abc")


def _rows(ids: list[int]) -> Rows:
    n = len(ids)
    return Rows(np.array(ids), np.array(ids, float)[:, None], {"x": np.array(ids, float)}, {},
                np.zeros(n, np.uint8), np.zeros(n, np.float32))  # fmt: skip


SCHEMA = Schema({"x": ("<f8", ())})


def _store(path: Path) -> Store:
    return Store.create(path / "store", {"names": ["a"]}, SCHEMA, 1 << 12)


def test_members_publish_at_once_and_every_shard_gets_its_number(tmp_path: Path) -> None:
    store = _store(tmp_path)
    per = 40

    def write(number: int) -> None:
        with (
            SharedWriter(Store.open(store.path)) as writer,
            Spool(writer.spool_directory, "a", SCHEMA, 10) as spool,
        ):
            for start in range(number * per, (number + 1) * per, 5):
                spool.append(_rows(list(range(start, start + 5))))
                writer.publish()

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(path.name for path in (store.path / "shards").iterdir())
    assert names == [f"{k:06d}" for k in range(len(names))]
    assert store.counts(8 * per)["missing"] == 0
    with Writer(store):
        pass
    assert np.array_equal(store.ids(), np.arange(8 * per))
    assert sum(len(shard) for shard in store.index.shards) == 8 * per  # no row twice
    assert not verify(store)


def test_the_session_of_a_dead_member_is_taken_once_with_what_it_had_taken(tmp_path: Path) -> None:
    store = _store(tmp_path)
    writers = [SharedWriter(store).__enter__() for _ in range(3)]
    spools = [Spool(m.spool_directory, "a", SCHEMA, 100) for m in writers]
    for k, spool in enumerate(spools):
        spool.append(_rows([k]))
    names = [writer.spool_directory.name for writer in writers]
    writers[1].take_session(names[0])
    writers[2].take_session(names[0])  # too late
    writers[2].take_session(names[1])
    assert writers[2].durable(np.arange(5)).tolist() == [0, 1]
    with pytest.raises(PipelineError, match=r"taken over"):
        spools[0].append(_rows([3]))
    with Writer(store):
        pass
    assert {0, 1, 2} <= set(store.ids().tolist())
    assert len(store.index.shards) == 1


def test_members_agree_on_the_outputs(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", {"names": ["a"]})
    with SharedWriter(store) as one, SharedWriter(Store.open(store.path)) as two:
        one.set_schema(SCHEMA)
        two.set_schema(SCHEMA)
        with pytest.raises(UsageError, match=r"holds outputs .* the simulator gives"):
            two.set_schema(Schema({"x": ("<f8", (2,))}))
    assert store.schema == SCHEMA
