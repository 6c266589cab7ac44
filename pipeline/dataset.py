"""Rows for training: the ok simulations of a budget, split by id, in memory or streamed from the shards.

A batch is a function of (seed, epoch, step, rank, number of ranks). Training can therefore continue at any
step, and every rank takes the same number of steps because the number follows from the row count alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pipeline.errors import UsageError

GOLDEN = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1
GOLDEN_RATIO = (5**0.5 - 1) / 2
UNIT_BYTES = 32 << 20  # rows that are read in one piece, as float32
UNITS = 4  # pieces that are shuffled together
READ_BYTES = 4 << 20  # one read, small enough for the cache
SAMPLE_ROWS, SAMPLE_BYTES = 65_536, 256 << 20  # rows that shapes and standardisation are taken from
VALIDATION_ROWS, VALIDATION_BYTES = 8_192, 256 << 20


Columns = dict[str | None, np.ndarray]


class Batch(NamedTuple):
    """Float32 rows: `theta` (n, D) and `x` {name: (n, ...)}."""

    theta: Tensor
    x: dict[str, Tensor]

    def take(self, index: Tensor) -> Batch:
        x = {name: values.index_select(0, index) for name, values in self.x.items()}
        return Batch(self.theta.index_select(0, index), x)

    def to(self, device: torch.device) -> Batch:
        return Batch(self.theta.to(device), {k: v.to(device) for k, v in self.x.items()})


class View(Protocol):
    """The ok rows of one shard."""

    ids: np.ndarray

    def read(self, start: int, stop: int) -> Any: ...

    def column(self, name: str) -> np.ndarray: ...


Pieces = list[tuple[View, np.ndarray]]  # shards with positions of rows


def mix(*parts: int) -> int:
    """Return 63 bits that follow from whole numbers through splitmix64.

    Reference: Fast splittable pseudorandom number generators (Steele, Lea and Flood 2014).
    """
    state = 0
    for part in parts:
        state = ((state ^ part) + GOLDEN) & WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
        state ^= state >> 31
    return state >> 1


def validates(ids: np.ndarray, share: float) -> np.ndarray:
    """Say which ids (n,) belong to validation: those with splitmix64(id) < share * 2^64.

    The answer for an id never depends on the other ids, so it holds when the budget grows.
    """
    state = ids.astype(np.uint64) + np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    chosen: np.ndarray = state < np.uint64(share * 2.0**64)
    return chosen


@dataclass(frozen=True)
class Table:
    """The ok rows of a budget: which of them train, which validate, and how to read them."""

    views: Sequence[View]
    parameters: int
    shapes: dict[str, tuple[int, ...]]  # of one row of each output
    ragged: frozenset[str]
    share: float
    train: np.ndarray  # sorted ids
    validation: np.ndarray

    @classmethod
    def of(cls, store: Any, budget: int, share: float) -> Table:
        """Open the ok rows below `budget`; `UsageError` where they cannot be trained on."""
        views = [view for view in store.shards(budget) if len(view.ids)]
        ids = np.sort(np.concatenate([view.ids for view in views] or [np.zeros(0, np.int64)]))
        if not len(ids):
            raise UsageError(f"budget={budget}: no simulation is ok, nothing to train on")
        schema, shapes = store.schema, {}
        for name, (dtype, shape) in schema.arrays.items():
            if np.dtype(dtype).kind == "c":
                raise UsageError(f"output {name!r} is complex; give real and imaginary part")
            shapes[name] = tuple(shape)
        for name in schema.ragged:
            longest = max(int(view.column(f"lengths/{name}").max(initial=0)) for view in views)
            shapes[name] = (longest, *shapes[name][1:])
        chosen = validates(ids, share)
        return cls(
            *(views, len(store.names), shapes, frozenset(schema.ragged)),
            *(share, ids[~chosen], ids[chosen]),
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as float32."""
        values = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return 4 * (self.parameters + values + sum(self.shapes[name][0] for name in self.ragged))

    @property
    def unit_rows(self) -> int:
        return max(1, UNIT_BYTES // self.row_bytes)

    def sample(self) -> Batch:
        """Return the first training rows, as many as shapes and standardisation need."""
        return self.gather(self._first(self.train, SAMPLE_ROWS, SAMPLE_BYTES))

    def held_out(self) -> Batch:
        """Return the first validation rows; their number is bounded, so memory is."""
        return self.gather(self._first(self.validation, VALIDATION_ROWS, VALIDATION_BYTES))

    def _first(self, ids: np.ndarray, rows: int, size: int) -> np.ndarray:
        return ids[: max(2, min(rows, size // self.row_bytes))]

    def gather(self, ids: np.ndarray) -> Batch:
        """Return the rows with the given sorted ids, in their order, reading a piece at a time."""
        columns = self.allocate(len(ids))
        for view in self.views:
            at = np.minimum(np.searchsorted(ids, view.ids), len(ids) - 1)
            wanted = np.flatnonzero(ids[at] == view.ids)
            for first in range(0, len(wanted), self.unit_rows):
                positions = wanted[first : first + self.unit_rows]
                self._read(view, positions, columns, at[positions])
        return self._tensors(columns)

    def units(self) -> Pieces:
        """Return the pieces that streaming reads: a shard and positions of its training rows."""
        pieces = []
        for view in self.views:
            positions = np.flatnonzero(~validates(view.ids, self.share)).astype(np.int32)
            cuts = range(0, len(positions), self.unit_rows)
            pieces += [(view, positions[cut : cut + self.unit_rows]) for cut in cuts]
        return pieces

    def load(self, pieces: Pieces, columns: Columns) -> Batch:
        """Return the rows at positions of shards, one piece behind the other, in allocated room."""
        start = 0
        for view, positions in pieces:
            stop = start + len(positions)
            self._read(view, positions, columns, np.arange(start, stop))
            start = stop
        return self._tensors({name: values[:start] for name, values in columns.items()})

    def allocate(self, n: int) -> Columns:
        """Return room for n rows; the key None stands for theta."""
        columns: Columns = {None: np.empty((n, self.parameters), np.float32)}
        for name, shape in self.shapes.items():
            columns[name] = np.empty((n, *shape), np.float32)
        for name in self.ragged:
            columns[f"{name}_mask"] = np.empty((n, self.shapes[name][0]), np.float32)
        return columns

    def _read(self, view: View, positions: np.ndarray, columns: Columns, at: np.ndarray) -> None:
        """Copy the rows at ascending positions of a shard to the places `at` of columns."""
        start, end = int(positions[0]), int(positions[-1]) + 1
        size = max(1, READ_BYTES // self.row_bytes)
        for low in range(start, end, size):
            high = min(low + size, end)
            part = slice(*np.searchsorted(positions, (low, high)))
            if part.start < part.stop:
                self._copy(view.read(low, high), positions[part] - low, columns, at[part])

    def _copy(self, rows: Any, chosen: np.ndarray, columns: Columns, at: np.ndarray) -> None:
        columns[None][at] = rows.theta[chosen]
        for name in self.shapes:
            values = rows.x[name][chosen]
            if name in self.ragged:
                longest = self.shapes[name][0]
                columns[name][at] = 0
                columns[name][at, : values.shape[1]] = values[:, :longest]
                columns[f"{name}_mask"][at] = np.arange(longest) < rows.lengths[name][chosen, None]
            else:
                columns[name][at] = values

    @staticmethod
    def _tensors(columns: Columns) -> Batch:
        tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
        theta = tensors.pop(None)
        return Batch(theta, {str(name): values for name, values in tensors.items()})


@dataclass(frozen=True)
class Order:
    """What decides which rows a rank sees in a step; `batch` rows are seen by all ranks together.

    Rows with weights are seen as often as these say, see `times`.
    """

    seed: int
    batch: int
    rank: int = 0
    world: int = 1
    weights: np.ndarray | None = None  # of the training rows, in the order of their ids

    @property
    def part(self) -> int:
        """Rows of this rank's share of a batch."""
        return self.batch // self.world

    def permutation(self, n: int, *key: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix(self.seed, *key))
        return torch.randperm(n, generator=generator)


def times(weights: np.ndarray, epoch: int) -> np.ndarray:
    """Return how often an epoch has each row, (n,) of sum n, for weights (n,).

    The number of row i is that of the whole numbers in an interval of length n w_i / sum w. The intervals lie
    side by side and move by the golden ratio from epoch to epoch: the mean over epochs soon is this length.

    Madow: On the Theory of Systematic Sampling, II (1949).
    """
    n, offset = len(weights), epoch * GOLDEN_RATIO % 1
    ends = np.cumsum(weights)
    ends *= n / ends[-1]
    ends[-1] = n
    return np.diff(np.floor(ends + offset).astype(np.int64), prepend=0)


class Resident(IterableDataset):
    """Batches from rows that are all in memory: a permutation of the ids for each epoch.

    Every batch holds the same rows for any number of ranks.
    """

    def __init__(self, rows: Batch, order: Order) -> None:
        self.rows, self.order = rows, order
        self.steps = len(rows.theta) // order.batch  # of an epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, step: int) -> Generator[Batch]:
        """Yield batches for ever, beginning with the one of `step`."""
        order, n = self.order, len(self.rows.theta)
        epoch, first = divmod(step, self.steps)
        while True:
            shuffled = order.permutation(n, epoch)
            if order.weights is not None:
                rows = np.repeat(np.arange(n), times(order.weights, epoch))
                shuffled = torch.from_numpy(rows)[shuffled]
            shuffled = shuffled.to(self.rows.theta.device)
            for k in range(first, self.steps):
                start = k * order.batch + order.rank * order.part
                yield self.rows.take(shuffled[start : start + order.part])
            epoch, first = epoch + 1, 0


class Stream(IterableDataset):
    """Batches from rows that are read while training: shards are shuffled, then rows of a few shards.

    In each epoch the shards lie in a new order; each rank reads its own equal part of the rows in
    windows of a few shards, of which one is in use while the next is read in the background.
    """

    def __init__(self, table: Table, order: Order) -> None:
        self.table, self.order = table, order
        self.pieces = table.units()
        self.sizes = np.array([len(positions) for _, positions in self.pieces])
        self.weights = order.weights  # in the order of the pieces
        if order.weights is not None:
            ids = np.concatenate([view.ids[positions] for view, positions in self.pieces])
            self.weights = order.weights[np.searchsorted(table.train, ids)]
        self.steps = len(table.train) // order.batch  # of an epoch
        self.window = min(self.steps, max(1, UNITS * table.unit_rows // order.part))  # in steps
        self.rows = self.window * order.part  # of a window

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, step: int) -> Generator[Batch]:
        """Yield batches for ever, beginning with the one of `step`."""
        part, windows = self.order.part, self._windows(step)
        room = cycle([self.table.allocate(self.rows) for _ in range(2)])
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            ahead = reader.submit(self._load, *next(windows), next(room))
            while True:
                rows, epoch, first = ahead.result()
                ahead = reader.submit(self._load, *next(windows), next(room))
                shuffled = self.order.permutation(
                    len(rows.theta), epoch, self.order.rank, self.order.world, first
                )
                skip = max(0, step - (epoch * self.steps + first))
                for start in range(skip * part, len(rows.theta), part):
                    yield rows.take(shuffled[start : start + part])

    def _windows(self, step: int) -> Iterator[tuple[int, int, int, Pieces]]:
        """Yield (epoch, first step, step behind the last, pieces) from the window that holds `step`."""
        epoch, within = divmod(step, self.steps)
        first = within - within % self.window
        while True:
            pieces = self._pieces(epoch)
            for start in range(first, self.steps, self.window):
                yield epoch, start, min(start + self.window, self.steps), pieces
            epoch, first = epoch + 1, 0

    def _load(
        self, epoch: int, first: int, last: int, pieces: Pieces, room: Columns
    ) -> tuple[Batch, int, int]:
        """Read the rows of steps first..last of this rank into `room`."""
        part, rank = self.order.part, self.order.rank
        begin = (rank * self.steps + first) * part
        end = (rank * self.steps + last) * part
        ends = np.cumsum([len(positions) for _, positions in pieces])
        chosen = []
        for k in range(int(np.searchsorted(ends, begin, "right")), len(ends)):
            view, positions = pieces[k]
            start = ends[k] - len(positions)
            if start >= end:
                break
            if len(positions):  # weights may leave none
                chosen.append((view, positions[max(begin - start, 0) : end - start]))
        return self.table.load(chosen, room), epoch, first

    def _pieces(self, epoch: int) -> Pieces:
        """Return the pieces in the order of an epoch, with the rows as often as it has them."""
        pieces = self.pieces
        if self.weights is not None:
            each = np.split(times(self.weights, epoch), np.cumsum(self.sizes)[:-1])
            pieces = [
                (view, np.repeat(positions, number))
                for (view, positions), number in zip(pieces, each, strict=True)
            ]
        return [pieces[k] for k in self.order.permutation(len(pieces), epoch)]
