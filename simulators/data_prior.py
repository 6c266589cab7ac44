"""A prior that is a data set: parameters are its rows, and there is no density.

A simulation uses the row that its id leads to, and names it in the output `prior_row`:

    row_i = permutation[i],   permutation follows from the root seed

Training takes rows of one part of the data set, test simulations those of another: they never share a row.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from simulators.data_set import ROWS, read_data
from simulators.distribution import Array
from simulators.prior import Prior

ROW = "prior_row"  # the output that names the row of a simulation
TRAIN, TEST = 0, 1  # streams that have rows
NO_DENSITY = "a prior that is a data set has no density: only its rows are known"


class DataPrior(Prior):
    """Parameters that are the rows of a data set, drawn without replacement unless asked otherwise.

        theta = offset + scale * row

    Arguments:
        data: an array (n, ...), or the path of an .npy, .npz or idx file. A row of several axes, such as
            an image, is one parameter array; theta holds it flat, shape (D,).
        key: which array of an .npz file.
        held_out: rows that only test simulations use: a share of the rows, their number, or another
            data set with rows of the same shape.
        names: of the D parameters; none: `label[0]`, or `label[0,0]` for rows of several axes.
        label: what the whole array is called.
        shuffle: take the rows in an order that follows from the root seed; false: as they lie there.
        replace: draw rows with replacement, so that a budget may be larger than the data set.
        offset, scale: numbers that turn values of the data set into parameters.
        low, high: bounds, one number or one for each parameter; none: unbounded.
        sha256: of the data set as it was used before; another one is refused.

    Raises:
        ValueError or TypeError naming the data set, the value and what is valid.
    """

    def __init__(
        self,
        data: ArrayLike | str | Path,
        *,
        key: str | None = None,
        held_out: float | ArrayLike | str | Path = 0.1,
        names: Sequence[str] | None = None,
        label: str = "theta",
        shuffle: bool = True,
        replace: bool = False,
        offset: float = 0.0,
        scale: float = 1.0,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        sha256: str | None = None,
    ) -> None:
        self.data = read_data(data, key)
        self.path = str(Path(data).resolve()) if isinstance(data, str | Path) else None
        self.key, self.label, self.shuffle, self.replace = key, label, bool(shuffle), bool(replace)
        self.offset, self.scale = float(offset), float(scale)
        size = math.prod(self.shape)
        self._hold_out(held_out)
        self._own_names = names is not None
        self.names = tuple(names) if names is not None else _names(label, self.shape)
        if len(self.names) != size or len(set(self.names)) != size:
            raise ValueError(f"a row has {size} values: it needs as many different names")
        self.low, self.high = _bound("low", low, size, -np.inf), _bound("high", high, size, np.inf)
        self._bounds = {"low": low, "high": high}
        self._check_bounds()
        if sha256 is not None and sha256 != self.digest:
            raise ValueError(
                f"the data set {self.path or ''} has changed: its SHA-256 is {self.digest[:12]}..., "
                f"before it was {sha256[:12]}..."
            )

    def _hold_out(self, held_out: float | ArrayLike | str | Path) -> None:
        """Find the rows of test simulations."""
        self.held_out: int | str | None
        self.test_data, n = None, len(self.data)
        if isinstance(held_out, int | float) and not isinstance(held_out, bool):
            count = math.ceil(held_out * n) if 0 < held_out < 1 else int(held_out)
            if not 0 <= count < n or (held_out >= 1 and count != held_out):
                valid = f"valid is a share between 0 and 1, or a whole number below {n}"
                raise ValueError(f"held_out={held_out!r} of {n} rows: {valid}")
            self.held_out = count
            return
        self.test_data = read_data(held_out)
        self.held_out = str(Path(held_out).resolve()) if isinstance(held_out, str | Path) else None
        if self.test_data.shape[1:] != self.data.shape[1:]:
            shapes = f"{self.test_data.shape[1:]}, those of the data set {self.data.shape[1:]}"
            raise ValueError(f"the rows that are held out have shape {shapes}")

    def _check_bounds(self) -> None:
        if not (np.isfinite(self.low) | np.isfinite(self.high)).any():
            return
        for start in range(0, len(self.data), ROWS):
            theta = self._parameters(self.data[start : start + ROWS])
            outside = (theta < self.low) | (theta > self.high)
            if outside.any():
                row, j = np.argwhere(outside)[0]
                bounds = f"[{self.low[j]:g}, {self.high[j]:g}]"
                where = f"row {start + row}, {self.names[j]} = {theta[row, j]:g}"
                raise ValueError(f"the data set lies outside of {bounds}, first in {where}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[1:]

    @property
    def has_density(self) -> bool:
        return False

    def available(self, stream: int) -> int:
        """Return how many rows a stream has: 0 training, 1 test.

        Raises:
            ValueError: another stream, which has none.
        """
        if stream not in (TRAIN, TEST):
            raise ValueError(
                f"a prior that is a data set has rows for training and test, not for stream {stream}"
            )
        if self.test_data is not None:
            return len(self.test_data) if stream == TEST else len(self.data)
        held = int(self.held_out or 0)
        return held if stream == TEST else len(self.data) - held

    def row_numbers(self, seed: int, stream: int, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Return the row (n,) that each id (n,) of a stream uses, for a root seed.

        Without replacement ids beyond the number of rows begin anew; nothing that is kept has them.
        """
        n, own = self.available(stream), self.test_data is None
        if self.replace:
            places = np.array([_place(seed, stream, int(i), n) for i in ids], np.int64)
        else:
            places = np.asarray(ids, np.int64) % max(n, 1)
        skip = len(self.data) - n if own and stream == TEST else 0
        if not self.shuffle:
            return places + skip
        total = len(self.data) if own else n
        return _order(seed, 0 if own else stream, total)[places + skip]

    def rows(self, stream: int, numbers: NDArray[np.int64]) -> Array:
        """Return the parameters (n, D) of rows."""
        data = self.test_data if stream == TEST and self.test_data is not None else self.data
        return self._parameters(data[numbers])

    def _parameters(self, values: NDArray[Any]) -> Array:
        theta = values.reshape(len(values), -1).astype(np.float64)
        theta *= self.scale
        theta += self.offset
        return theta

    def sample(self, rng: Generator, n: int) -> Array:
        """Draw rows with replacement, shape (n, D)."""
        return self.rows(TRAIN, rng.integers(len(self.data), size=n))

    def log_prob(self, theta: ArrayLike) -> NoReturn:
        raise NotImplementedError(NO_DENSITY)

    def __repr__(self) -> str:
        return f"a data set of {len(self.data)} rows of shape {self.shape}, which has no density"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the values."""
        total = hashlib.sha256()
        for data in (self.data, self.test_data):
            if data is not None:
                total.update(f"{data.dtype.str}{data.shape}".encode())
                for start in range(0, len(data), ROWS):
                    total.update(np.ascontiguousarray(data[start : start + ROWS]).data)
        return total.hexdigest()

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": "data", "path": self.path, "sha256": self.digest}
        spec |= {"key": self.key, "held_out": self.held_out, "label": self.label}
        spec |= {"shuffle": self.shuffle, "replace": self.replace}
        spec |= {"offset": self.offset, "scale": self.scale}
        spec |= {name: np.asarray(v).tolist() for name, v in self._bounds.items() if v is not None}
        return spec | ({"names": list(self.names)} if self._own_names else {})

    def identity(self) -> dict[str, Any]:
        """Return the JSON form without where the files lie."""
        spec = self.spec()
        places = {"path"} | ({"held_out"} if isinstance(self.held_out, str) else set())
        return {key: value for key, value in spec.items() if key not in places}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> DataPrior:
        """Return the prior of a JSON form.

        Raises:
            ValueError: it does not say where the data set lies, or this is not there as it was.
        """
        given = {key: value for key, value in spec.items() if key != "name"}
        path = given.pop("path", None)
        if path is None or given.get("held_out", 0) is None:
            raise ValueError("prior 'data' needs a path: the data set itself is not kept with it")
        return cls(path, **given)


def _names(label: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    places = itertools.product(*map(range, shape))
    return tuple(f"{label}[{','.join(map(str, place))}]" for place in places)


def _bound(what: str, value: ArrayLike | None, size: int, unbounded: float) -> Array:
    try:
        bound = np.asarray(unbounded if value is None else value, dtype=float).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be numbers, got {value!r}") from None
    if bound.size not in (1, size):
        raise ValueError(f"{what} must be one number or {size}, got {bound.size}")
    return np.broadcast_to(bound, (size,)).copy()


@lru_cache(maxsize=4)
def _order(seed: int, part: int, n: int) -> NDArray[np.int64]:
    """Return the order in which the rows of a data set are used."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(part,))))
    return rng.permutation(n)


def _place(seed: int, stream: int, i: int, n: int) -> int:
    """Draw the row of an id with replacement."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, i, 0))
    return int(np.random.Generator(np.random.PCG64(sequence)).integers(n))
