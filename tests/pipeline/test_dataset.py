"""Rows for training: the split, what is read, and the order of batches."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.store import import_arrays
from pipeline.train import dataset
from pipeline.train.batches import Order, ResidentBatches, StreamedBatches, times
from pipeline.train.dataset import Table, mix, validates

N, BATCH = 1000, 32


def make_store(path, n=N, shard_bytes=8192, bad=()):
    """A store whose theta[:, 0] and x[:, 0] are the id."""
    theta = np.stack([np.arange(n), np.full(n, 7)], axis=1).astype(float)
    x = np.tile(np.arange(n, dtype=np.float64)[:, None], (1, 5))
    x[list(bad)] = np.nan
    return import_arrays(path, theta, {"x": x}, ("a", "b"), shard_bytes=shard_bytes)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "UNIT_BYTES", 40 * 28)  # 40 rows
    return Table.of(make_store(tmp_path / "store"), N, 0.05)


def ids_of(batches):
    return torch.cat([batch.theta[:, 0] for batch in batches]).long().tolist()


def test_splitmix64_is_the_published_one():
    assert mix(0) == 0xE220A8397B1DCDAF >> 1
    share = 0xE220A8397B1DCDAF / 2**64
    assert validates(np.array([0]), share + 1e-6).all()
    assert not validates(np.array([0]), share - 1e-6).any()


def test_the_split_has_the_share_and_holds_when_the_budget_grows(tmp_path):
    ids = np.arange(200_000)
    assert abs(validates(ids, 0.05).mean() - 0.05) < 0.002
    store = make_store(tmp_path / "store")
    small, large = Table.of(store, 300, 0.1), Table.of(store, N, 0.1)
    assert np.array_equal(small.validation, large.validation[large.validation < 300])
    assert np.array_equal(small.train, large.train[large.train < 300])
    assert not set(large.train) & set(large.validation)


def test_rows_that_are_not_ok_are_never_seen(tmp_path):
    bad = {3, 77, 500, 998}
    table = Table.of(make_store(tmp_path / "store", bad=bad), N, 0.05)
    assert set(table.train) | set(table.validation) == set(range(N)) - bad
    seen = ids_of(islice(StreamedBatches(table, Order(0, BATCH)), 3 * N // BATCH))
    assert not bad & set(seen)


def test_gather_returns_the_rows_of_sorted_ids(table):
    rows = table.gather(table.train)
    assert rows.theta.dtype == rows.x["x"].dtype == torch.float32
    assert rows.theta[:, 0].tolist() == table.train.tolist()
    assert torch.equal(rows.x["x"][:, 4], rows.theta[:, 0])
    assert len(table.sample().theta) == len(table.train)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_streaming_sees_each_row_at_most_once_in_an_epoch(table, world):
    streams = [StreamedBatches(table, Order(5, BATCH, rank, world)) for rank in range(world)]
    assert {stream.steps for stream in streams} == {len(table.train) // BATCH}
    steps = streams[0].steps
    epochs = []
    for epoch in range(2):
        first = epoch * steps
        seen = [row for stream in streams for row in ids_of(islice(stream.batches(first), steps))]
        assert len(seen) == len(set(seen)) == steps * BATCH
        assert set(seen) <= set(table.train)
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_streaming_mixes_rows_of_several_shards(table):
    stream = StreamedBatches(table, Order(5, BATCH))
    shard_of = {int(i): k for k, view in enumerate(table.views) for i in view.ids}
    assert len(table.views) >= 4
    for batch in islice(stream, stream.steps):
        assert len({shard_of[i] for i in ids_of([batch])}) >= 2


@pytest.mark.parametrize("step", [1, 4, 5, 29, 30, 61])
def test_streaming_continues_anywhere(table, step):
    order = Order(5, BATCH, 1, 2)
    whole = [batch.theta for batch in islice(StreamedBatches(table, order), 70)]
    rest = [batch.theta for batch in islice(StreamedBatches(table, order).batches(step), 70 - step)]
    assert all(torch.equal(a, b) for a, b in zip(whole[step:], rest, strict=True))


def test_batches_in_memory_do_not_depend_on_the_number_of_ranks(table):
    rows = table.gather(table.train)
    alone = list(islice(ResidentBatches(rows, Order(5, BATCH)).batches(7), 60))
    ranks = [
        list(islice(ResidentBatches(rows, Order(5, BATCH, r, 4)).batches(7), 60)) for r in range(4)
    ]
    for step, batch in enumerate(alone):
        together = torch.cat([rank[step].x["x"] for rank in ranks])
        assert torch.equal(batch.x["x"], together)
    steps = len(table.train) // BATCH
    epoch = ids_of(islice(ResidentBatches(rows, Order(5, BATCH)).batches(steps), steps))
    assert len(set(epoch)) == steps * BATCH


def test_an_epoch_has_weighted_rows_as_often_as_their_weights_say():
    weights = np.array([0.0, 0.3, 1.0, 2.5, 1.2])
    counts = np.array([times(weights, epoch) for epoch in range(1000)])
    assert set(counts.sum(1)) == {5}
    assert (np.abs(counts - weights) < 1).all()
    np.testing.assert_allclose(counts.mean(0), weights, atol=0.003)
    assert (times(np.full(7, 3.0), 4) == 1).all()  # equal weights: each row once


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", [ResidentBatches, StreamedBatches])
def test_weighted_rows_are_seen_as_often_as_their_weights_say(table, kind, world):
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(table.train))
    weights[:100] = 0  # whole pieces
    weights /= weights.mean()
    rows = table.gather(table.train) if kind is ResidentBatches else table
    orders = [Order(5, BATCH, rank, world, weights) for rank in range(world)]
    parts = [kind(rows, order) for order in orders]
    steps, epochs = len(table.train) // BATCH, 40
    seen = [row for part in parts for row in ids_of(islice(part.batches(0), epochs * steps))]
    counts = np.bincount(seen, minlength=N)[table.train] / epochs
    assert len(seen) == epochs * steps * BATCH
    assert (counts[:100] == 0).all()
    assert np.abs(counts - weights).max() < 0.3  # of an epoch the last rows are left out
    assert np.abs(counts - weights).mean() < 0.05


@pytest.mark.parametrize("step", [1, 29, 61])
def test_weighted_streaming_continues_anywhere(table, step):
    weights = np.random.default_rng(1).uniform(0, 2, len(table.train))
    order = Order(5, BATCH, 1, 2, weights)
    whole = [batch.theta for batch in islice(StreamedBatches(table, order), 70)]
    rest = [batch.theta for batch in islice(StreamedBatches(table, order).batches(step), 70 - step)]
    assert all(torch.equal(a, b) for a, b in zip(whole[step:], rest, strict=True))


def test_ragged_outputs_are_padded_to_the_longest_of_the_budget_with_a_mask(tmp_path):
    lengths = np.array([2, 4, 3, 1, 6, 0])
    x = np.where(np.arange(6) < lengths[:, None], 1.0 + np.arange(6), 0.0)
    theta = np.arange(6.0)[:, None]
    store = import_arrays(
        tmp_path / "s", theta, {"x": x}, ("a",), lengths={"x": lengths}, shard_bytes=1024
    )
    rows = Table.of(store, 4, 0.0).gather(np.arange(4))
    assert rows.x["x"].shape == rows.x["x_mask"].shape == (4, 4)
    assert rows.x["x_mask"].sum(1).tolist() == [2, 4, 3, 1]
    assert torch.equal(rows.x["x"], torch.arange(1, 5) * rows.x["x_mask"])


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    nothing = make_store(tmp_path / "a", n=5, bad=range(5))
    with pytest.raises(UsageError, match="no simulation is ok"):
        Table.of(nothing, 5, 0.05)
    theta, x = np.zeros((4, 1)), np.ones((4, 2), np.complex64)
    with pytest.raises(UsageError, match="'x' is complex"):
        Table.of(import_arrays(tmp_path / "b", theta, {"x": x}, ("a",)), 4, 0.05)
