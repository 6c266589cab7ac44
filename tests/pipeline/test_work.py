"""Blocks of work: nothing lost or doubled, keys whole, sizes by measured time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pipeline.simulate.work import TARGET, Work


@settings(deadline=None)
@given(
    ids=some.sets(some.integers(0, 500), min_size=1),
    size=some.integers(1, 40),
    steps=some.lists(some.tuples(some.integers(1, 7), some.booleans()), min_size=1),
)
def test_every_id_is_handed_out_once_and_blocks_hold_few_keys(ids, size, steps):
    wanted = sorted(ids)
    work = Work(np.array(wanted), size)
    done = []
    for keys, half in steps * len(wanted):
        if not len(work):
            break
        block = work.take(keys)
        assert 0 < len(np.unique(block // size)) <= keys
        kept = (len(block) + 1) // 2 if half else len(block)
        work.give_back(block[kept:])
        done += block[:kept].tolist()
    assert done == wanted


def test_keys_are_not_cut():
    work = Work(np.arange(5, 100), 10)
    assert [work.take(2).tolist()[-1] for _ in range(5)] == [19, 39, 59, 79, 99]


def test_what_is_given_back_comes_next():
    work = Work(np.arange(10), 1)
    first = work.take(4)
    work.give_back(first[2:])
    assert work.take(10).tolist() == [2, 3]
    assert work.take(10).tolist() == [4, 5, 6, 7, 8, 9]
    assert len(work) == 0


@pytest.mark.parametrize(
    ("each", "size"), [(10.0, 1), (1.0, 1), (0.01, 100), (1e-6, 1000)], ids=str
)
def test_a_block_is_a_second_of_work_but_no_more_than_a_shard(each, size):
    work = Work(np.arange(10**6), 1)
    work.learn(1, each)
    assert work.size(workers=2, most=1000) == size
    assert size == 1 or size * each <= TARGET * 1.001


def test_blocks_shrink_towards_the_end_but_not_below_messages():
    work = Work(np.arange(60), 1)
    assert work.size(2, 1000) == 1  # nothing is known yet
    work.learn(10, 0.1)
    assert work.size(2, 1000) == 15
    work.take(50)
    assert work.size(2, 1000) == 5  # 50 ms


def test_slow_work_is_not_queued_behind_other_work():
    work = Work(np.arange(4), 1)
    assert work.depth() == 2
    work.learn(1, 30.0)
    assert work.depth() == 1
