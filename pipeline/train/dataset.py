"""Rows for training: the simulations of a budget that are ok, split by id into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from estimators.outputs import MASK
from pipeline.errors import UsageError
from pipeline.store.observation import Observation, without_row
from pipeline.store.ranges import Ranges
from pipeline.streams import GOLDEN, splitmix64

WORD = (1 << 64) - 1
UNIT_BYTES = 32 << 20  # rows that are read in one piece, as float32
IDS = 1 << 18  # ids that are looked at together
READ_BYTES = 4 << 20  # one read, small enough for the cache
SAMPLE_ROWS, SAMPLE_BYTES = 65_536, 256 << 20  # rows that shapes and standardisation are taken from
VALIDATION_ROWS, VALIDATION_BYTES = 8_192, 256 << 20


Columns = dict[str | None, np.ndarray]  # arrays of rows; the key None stands for theta


class Batch(NamedTuple):
    """Float32 rows: `theta` (n, D) and `x` {name: (n, ...)}."""

    theta: Tensor
    x: dict[str, Tensor]

    def take(self, index: Tensor) -> Batch:
        """Return the rows at positions (m,)."""
        x = {name: values.index_select(0, index) for name, values in self.x.items()}
        return Batch(self.theta.index_select(0, index), x)

    def parts(self, count: int) -> list[Batch]:
        """Return the rows in `count` parts whose sizes differ by at most one; fewer where rows are fewer."""
        if count == 1:
            return [self]
        rows = torch.arange(len(self.theta), device=self.theta.device)
        return [self.take(part) for part in rows.tensor_split(count) if len(part)]

    def to(self, device: torch.device) -> Batch:
        """Return the rows on a device."""
        return Batch(self.theta.to(device), {k: v.to(device) for k, v in self.x.items()})


class View(Protocol):
    """The ok rows of one shard; whatever it reads matches the checksums of the shard."""

    rows: Any  # the ids as ranges

    @property
    def ids(self) -> np.ndarray:
        """Ids of the rows, sorted, shape (n,)."""
        ...

    def __len__(self) -> int: ...

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the sorted `ids` are here, and at which positions of the shard."""
        ...

    def read(self, start: int, stop: int, seconds: bool) -> Any:
        """Return the rows between two positions."""
        ...

    def column(self, name: str) -> np.ndarray:
        """Return one array of all rows."""
        ...


class Piece(NamedTuple):
    """Training rows of a shard that are read together.

    Attributes:
        view: the shard.
        start, stop: the positions between which the rows lie.
        rows: their number.
    """

    view: View
    start: int
    stop: int
    rows: int


Pieces = list[tuple[View, np.ndarray]]  # shards with positions of rows


def mix(*parts: int) -> int:
    """Return 63 bits that broadcast from whole numbers through splitmix64.

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
    """Return whether each id belongs to validation: splitmix64(id) < share * 2^64.

    The answer for an id does not depend on the other ids, so it stays when the budget grows.

    Arguments:
        ids: shape (n,).
        share: expected share of the ids that validate.

    Returns:
        Booleans, shape (n,).
    """
    chosen: np.ndarray = splitmix64(ids) < np.uint64(share * 2.0**64)
    return chosen


@dataclass(frozen=True)
class Table:
    """The ok rows of a budget: which of them train, which validate, and how to read them.

    Attributes:
        views: the shards.
        parameters: number D of parameters.
        shapes: shape of one row of each output.
        ragged: outputs of varying length, which are padded to the longest.
        share: share of the rows that validate.
        ranges: all ids.
        validation_rows: number of rows that validate.
    """

    views: Sequence[View]
    parameters: int
    shapes: dict[str, tuple[int, ...]]
    ragged: frozenset[str]
    share: float
    ranges: Ranges
    validation_rows: int
    observation: Observation | None = None  # none: outputs are as they are kept
    kept_outputs: tuple[str, ...] = ()  # also those from which nothing is learned

    @classmethod
    def of(
        cls, store: Any, budget: int, share: float, observation: Observation | None = None
    ) -> Table:
        """Open the ok rows below `budget`.

        Raises:
            UsageError: no row is ok, or an output is complex.
        """
        views = [view for view in store.shards(budget) if len(view)]
        if not views:
            raise UsageError(f"budget={budget}: no simulation is ok, nothing to train on")
        schema, shapes = store.schema, {}
        for name, (dtype, shape) in without_row(schema.arrays).items():
            if np.dtype(dtype).kind == "c":
                raise UsageError(f"output {name!r} is complex; give real and imaginary part")
            shapes[name] = tuple(shape)
        for name in schema.ragged:
            longest = max(int(view.column(f"lengths/{name}").max(initial=0)) for view in views)
            shapes[name] = (longest, *shapes[name][1:])
        if observation is not None:
            row = views[0].read(0, 1, False)
            shapes = {k: v.shape[1:] for k, v in observation(row.x, row.ids).items()}
        ranges = Ranges.joined(
            np.concatenate([view.rows.first for view in views]),
            np.concatenate([view.rows.count for view in views]),
        )
        held = sum(int(validates(view.ids, share).sum()) for view in views) if share else 0
        ragged = frozenset(schema.ragged)
        kept = tuple(schema.arrays)
        return cls(views, len(store.names), shapes, ragged, share, ranges, held, observation, kept)

    def column(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Return a column of the store, (n, ...), for rows with sorted ids."""
        found = np.zeros(0)
        for view in self.views:
            at, wanted = view.find(ids)
            values = view.column(name)
            if not len(found):
                found = np.empty((len(ids), *values.shape[1:]), values.dtype)
            found[at] = values[wanted]
        return found

    @property
    def train_rows(self) -> int:
        """Number of rows that train."""
        return len(self.ranges) - self.validation_rows

    @property
    def train(self) -> np.ndarray:
        """Ids of the training rows, sorted."""
        return self._ids(False, self.train_rows)

    @property
    def validation(self) -> np.ndarray:
        """Ids of the validation rows, sorted."""
        return self._ids(True, self.validation_rows)

    def _ids(self, validation: bool, n: int) -> np.ndarray:
        """Return the first n ids of one part."""
        found, rows = [np.zeros(0, np.int64)], 0
        for start in range(0, len(self.ranges), IDS):
            if rows >= n:
                break
            ids = self.ranges.ids(start, start + IDS)
            found.append(ids[validates(ids, self.share) == validation])
            rows += len(found[-1])
        return np.concatenate(found)[:n]

    @property
    def shapes_with_masks(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each output, and of the masks of those of varying length."""
        masks = {f"{name}{MASK}": self.shapes[name][:1] for name in self.ragged}
        return self.shapes | masks

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as float32."""
        values = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return 4 * (self.parameters + values + sum(self.shapes[name][0] for name in self.ragged))

    @property
    def unit_rows(self) -> int:
        """Number of rows that are read in one piece."""
        return max(1, UNIT_BYTES // self.row_bytes)

    def sample(self) -> Batch:
        """Return the first training rows, as many as shapes and standardisation need."""
        return self.gather(self._ids(False, self._bounded(SAMPLE_ROWS, SAMPLE_BYTES)))

    def validation_batch(self) -> Batch:
        """Return the first validation rows; their number is bounded, so memory is."""
        return self.gather(self._ids(True, self._bounded(VALIDATION_ROWS, VALIDATION_BYTES)))

    def _bounded(self, rows: int, size: int) -> int:
        return max(2, min(rows, size // self.row_bytes))

    def gather(self, ids: np.ndarray) -> Batch:
        """Return the rows with the given sorted ids, in their order, reading a piece at a time."""
        columns = self.allocate(len(ids))
        for view in self.views:
            at, wanted = view.find(ids)
            for first in range(0, len(wanted), self.unit_rows):
                part = slice(first, first + self.unit_rows)
                self._read(view, wanted[part], columns, at[part])
        return self._tensors(columns)

    def kept(self, ids: np.ndarray) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Return theta (n, D) and the outputs as they are kept, (n, ...), of the rows with sorted ids."""
        theta = torch.empty(len(ids), self.parameters)
        x: dict[str, np.ndarray] = {}
        for view in self.views:
            at, wanted = view.find(ids)
            for first in range(0, len(wanted), self.unit_rows):
                part = slice(first, first + self.unit_rows)
                low, high = int(wanted[part][0]), int(wanted[part][-1]) + 1
                rows, chosen = view.read(low, high, False), wanted[part] - low
                theta[torch.from_numpy(at[part])] = torch.from_numpy(rows.theta[chosen]).float()
                for name, values in without_row(rows.x).items():
                    if name not in x:
                        x[name] = np.empty((len(ids), *values.shape[1:]), values.dtype)
                    x[name][at[part]] = values[chosen]
        return theta, x

    def units(self) -> list[Piece]:
        """Return the pieces that streaming reads, of as many training rows as are read at a time."""
        pieces = []
        for view in self.views:
            positions = self.positions(view, 0, len(view))
            for cut in range(0, len(positions), self.unit_rows):
                part = positions[cut : cut + self.unit_rows]
                pieces.append(Piece(view, int(part[0]), int(part[-1]) + 1, len(part)))
        return pieces

    def positions(self, view: View, start: int, stop: int) -> np.ndarray:
        """Return the positions of the training rows among rows `start` to `stop` of a shard."""
        return np.flatnonzero(~validates(view.ids[start:stop], self.share)) + start

    def load(self, pieces: Pieces, columns: Columns, epoch: int | None = None) -> Batch:
        """Return the rows at positions of shards, one piece after the other, in allocated columns.

        They are observed anew for an epoch; without one, with the noise that they always have.
        """
        start = 0
        for view, positions in pieces:
            stop = start + len(positions)
            self._read(view, positions, columns, np.arange(start, stop), epoch)
            start = stop
        return self._tensors({name: values[:start] for name, values in columns.items()})

    def allocate(self, n: int) -> Columns:
        """Return columns for n rows."""
        columns: Columns = {None: np.empty((n, self.parameters), np.float32)}
        for name, shape in self.shapes.items():
            columns[name] = np.empty((n, *shape), np.float32)
        for name in self.ragged:
            columns[f"{name}{MASK}"] = np.empty((n, self.shapes[name][0]), np.float32)
        return columns

    def _read(
        self,
        view: View,
        positions: np.ndarray,
        columns: Columns,
        at: np.ndarray,
        epoch: int | None = None,
    ) -> None:
        """Copy the rows at ascending positions of a shard to the indices `at` of columns."""
        start, end = int(positions[0]), int(positions[-1]) + 1
        size = max(1, READ_BYTES // self.row_bytes)
        for low in range(start, end, size):
            high = min(low + size, end)
            part = slice(*np.searchsorted(positions, (low, high)))
            if part.start < part.stop:
                rows = view.read(low, high, False)
                self._copy(rows, positions[part] - low, columns, _compact(at[part]), epoch)

    def _copy(
        self,
        rows: Any,
        chosen: np.ndarray,
        columns: Columns,
        at: np.ndarray | slice,
        epoch: int | None,
    ) -> None:
        columns[None][at] = rows.theta[chosen]
        x = {name: values[chosen] for name, values in without_row(rows.x).items()}
        if self.observation is not None:
            x = self.observation(x, rows.ids[chosen], epoch)
        for name in self.shapes:
            values = x[name]
            if name in self.ragged:
                longest = self.shapes[name][0]
                columns[name][at] = 0
                columns[name][at, : values.shape[1]] = values[:, :longest]
                columns[f"{name}{MASK}"][at] = np.arange(longest) < rows.lengths[name][chosen, None]
            else:
                columns[name][at] = values

    @staticmethod
    def _tensors(columns: Columns) -> Batch:
        tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
        theta = tensors.pop(None)
        return Batch(theta, {str(name): values for name, values in tensors.items()})


def _compact(indices: np.ndarray) -> np.ndarray | slice:
    """Return increasing indices (n,) as a slice where they are consecutive: writing is quicker then."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices
