"""The batches of a training, from rows in memory or read from the shards while training.

A batch is a function of (seed, epoch, step, rank, number of ranks). Training can therefore continue at any
step, and every rank takes the same number of steps because the number follows from the row count alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pipeline.train.dataset import Batch, Columns, Piece, Table, mix

GOLDEN_RATIO = (5**0.5 - 1) / 2
UNITS = 4  # pieces that are shuffled together

# Pieces in the order of an epoch: number of rows in this epoch, and of each row, None if it is 1.
EpochPieces = list[tuple[Piece, int, np.ndarray | None]]


@dataclass(frozen=True)
class Order:
    """The order in which a rank sees the rows.

    Attributes:
        seed: of the permutations.
        batch: rows of a step, of all ranks together.
        rank, world: number of this rank, and number of ranks.
        weights: of the training rows in the order of their ids, shape (n,): an epoch repeats a row as
            `times` says. None: each row once.
    """

    seed: int
    batch: int
    rank: int = 0
    world: int = 1
    weights: np.ndarray | None = None

    @property
    def part(self) -> int:
        """Rows of this rank's share of a batch."""
        return self.batch // self.world

    def permutation(self, n: int, *key: int) -> Tensor:
        """Return a permutation (n,) that follows from the seed and `key`."""
        generator = torch.Generator().manual_seed(mix(self.seed, *key))
        return torch.randperm(n, generator=generator)

    def shuffled(self, n: int, epoch: int) -> Tensor:
        """Return the rows of an epoch in their order, (n,), where all n rows are in memory."""
        shuffled = self.permutation(n, epoch)
        if self.weights is None:
            return shuffled
        return torch.from_numpy(np.repeat(np.arange(n), times(self.weights, epoch)))[shuffled]


def times(weights: np.ndarray, epoch: int) -> np.ndarray:
    """Return how often each row occurs in an epoch: systematic sampling with probabilities w_i / sum w.

    Row i occurs as often as there are integers in an interval of length n w_i / sum w. The intervals lie
    side by side. From epoch to epoch they move by the golden ratio, so that the mean over the epochs
    converges quickly to n w_i / sum w.

    Reference: On the Theory of Systematic Sampling, II (Madow 1949).

    Arguments:
        weights: w, shape (n,).
        epoch: its number, 0 for the first.

    Returns:
        Numbers of sum n, shape (n,).
    """
    n, offset = len(weights), epoch * GOLDEN_RATIO % 1
    ends = np.cumsum(weights)
    ends *= n / ends[-1]
    ends[-1] = n
    return np.diff(np.floor(ends + offset).astype(np.int64), prepend=0)


class ResidentBatches(IterableDataset):
    """Batches from rows that are all in memory: a permutation of the rows for each epoch.

    Together the ranks see the same rows in a step, whatever their number.
    """

    def __init__(self, rows: Batch, order: Order) -> None:
        self.rows, self.order = rows, order
        self.steps = len(rows.theta) // order.batch  # of an epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, step: int) -> Generator[Batch]:
        """Yield batches without end, beginning with that of `step`."""
        order, n = self.order, len(self.rows.theta)
        epoch, first = divmod(step, self.steps)
        while True:
            shuffled = order.shuffled(n, epoch).to(self.rows.theta.device)
            for k in range(first, self.steps):
                start = k * order.batch + order.rank * order.part
                yield self.rows.take(shuffled[start : start + order.part])
            epoch, first = epoch + 1, 0


class StreamedBatches(IterableDataset):
    """Batches from rows that are read while training: shards are shuffled, then the rows of a few shards.

    Each epoch has the shards in a new order. A rank reads its own equal part of the rows in windows of a
    few shards. One window is in use while the next is read in the background.
    """

    def __init__(self, table: Table, order: Order) -> None:
        self.table, self.order = table, order
        self.pieces = table.units()
        self.weights = order.weights  # in the order of the pieces
        if order.weights is not None:
            ids = np.concatenate([p.view.ids[table.positions(*p[:3])] for p in self.pieces])
            self.weights = order.weights[np.searchsorted(table.train, ids)]
        self.steps = table.train_rows // order.batch  # of an epoch
        self.window = min(self.steps, max(1, UNITS * table.unit_rows // order.part))  # in steps
        self.rows = self.window * order.part  # of a window

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, step: int) -> Generator[Batch]:
        """Yield batches without end, beginning with that of `step`."""
        part, windows = self.order.part, self._windows(step)
        buffers = cycle([self.table.allocate(self.rows) for _ in range(2)])
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            ahead = reader.submit(self._load, *next(windows), next(buffers))
            while True:
                rows, epoch, first = ahead.result()
                ahead = reader.submit(self._load, *next(windows), next(buffers))
                shuffled = self.order.permutation(
                    len(rows.theta), epoch, self.order.rank, self.order.world, first
                )
                skip = max(0, step - (epoch * self.steps + first))
                for start in range(skip * part, len(rows.theta), part):
                    yield rows.take(shuffled[start : start + part])

    def _windows(self, step: int) -> Iterator[tuple[int, int, int, EpochPieces]]:
        """Yield (epoch, first step, step after the last, pieces) from the window of `step` on."""
        epoch, within = divmod(step, self.steps)
        first = within - within % self.window
        while True:
            pieces = self._pieces(epoch)
            for start in range(first, self.steps, self.window):
                yield epoch, start, min(start + self.window, self.steps), pieces
            epoch, first = epoch + 1, 0

    def _load(
        self, epoch: int, first: int, last: int, pieces: EpochPieces, buffer: Columns
    ) -> tuple[Batch, int, int]:
        """Read the rows of the steps first..last of this rank into `buffer`."""
        part, rank = self.order.part, self.order.rank
        begin = (rank * self.steps + first) * part
        end = (rank * self.steps + last) * part
        ends = np.cumsum([rows for _, rows, _ in pieces])
        chosen = []
        for k in range(int(np.searchsorted(ends, begin, "right")), len(ends)):
            piece, rows, number = pieces[k]
            start = ends[k] - rows
            if start >= end:
                break
            if rows:  # weights may leave none
                positions = self.table.positions(*piece[:3])
                positions = positions if number is None else np.repeat(positions, number)
                chosen.append((piece.view, positions[max(begin - start, 0) : end - start]))
        return self.table.load(chosen, buffer, epoch), epoch, first

    def _pieces(self, epoch: int) -> EpochPieces:
        """Return the pieces in the order of an epoch, with the number of times each row occurs."""
        pieces: EpochPieces = [(piece, piece.rows, None) for piece in self.pieces]
        if self.weights is not None:
            cuts = np.cumsum([piece.rows for piece in self.pieces])[:-1]
            each = np.split(times(self.weights, epoch), cuts)
            pieces = [(p, int(e.sum()), e) for p, e in zip(self.pieces, each, strict=True)]
        return [pieces[k] for k in self.order.permutation(len(pieces), epoch)]
