"""Ids as ranges: the same answers as the ids themselves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from pipeline.store.ranges import Ranges, expand

few = some.sets(some.integers(0, 120))


@given(ids=few, start=some.integers(0, 130), size=some.integers(0, 130))
def test_ranges_are_their_ids(ids, start, size):
    array = np.array(sorted(ids), np.int64)
    ranges = Ranges.of(array)
    assert len(ranges) == len(array)
    np.testing.assert_array_equal(ranges.ids(), array)
    np.testing.assert_array_equal(ranges.ids(start, start + size), array[start : start + size])
    part = ranges.part(start, start + size)
    assert (part.count > 0).all()
    np.testing.assert_array_equal(ranges.positions(array), np.arange(len(array)))
    np.testing.assert_array_equal(ranges.find(np.arange(130))[1], np.isin(np.arange(130), array))
    absent = ranges.gaps(0, 130)
    np.testing.assert_array_equal(absent.ids(), np.setdiff1d(np.arange(130), array))
    assert (absent.first[1:] > (absent.first + absent.count)[:-1]).all()


@given(ids=few, other=few)
def test_disjoint_ranges_are_joined(ids, other):
    parts = [Ranges.of(np.array(sorted(part), np.int64)) for part in (ids, other - ids)]
    first, count = (np.concatenate([getattr(p, n) for p in parts]) for n in ("first", "count"))
    joined = Ranges.joined(first, count)
    np.testing.assert_array_equal(joined.ids(), sorted(ids | other))
    assert (joined.first[1:] > (joined.first + joined.count)[:-1]).all()


@given(ids=few, size=some.integers(1, 30))
def test_keys_begin_where_those_of_the_ids_do(ids, size):
    array = np.array(sorted(ids), np.int64)
    starts = np.flatnonzero(np.diff(array // size, prepend=-1))
    ranges = Ranges.of(array)
    assert ranges.keys(size) == len(starts)
    which = np.arange(len(starts) + 1)
    expected = np.append(starts, len(array))
    np.testing.assert_array_equal(ranges.key_positions(size, which), expected)


def test_expansion():
    assert expand(np.array([5, 2]), np.array([3, 2])).tolist() == [5, 6, 7, 2, 3]
    assert len(expand(np.zeros(0, int), np.zeros(0, int))) == 0
