"""A large array on disk in chunks of whole rows, one writer for each chunk, as a Zarr array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.errors import DamagedError
from pipeline.files import writing


@dataclass(frozen=True)
class ChunkedArray:
    """Rows of an array, written and read a chunk at a time.

    Each chunk has a digest, which `write` returns and whoever reads it brings along: it is kept in a sealed file
    of the writer's.

    Arguments:
        path: of the folder.
    """

    path: Path

    def create(self, shape: tuple[int, ...], rows: int, dtype: str = "float32") -> None:
        """Make the array, unless it is there with this shape and these chunks.

        Arguments:
            shape: of the whole array.
            rows: of a chunk.
        """
        chunks = (min(rows, shape[0]), *shape[1:])
        with writing(self.path), suppress(DamagedError):
            if self.path.exists():
                found = self._open("r+")
                if found.shape == shape and found.chunks == chunks and found.dtype == dtype:
                    return
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            zarr.create_array(
                str(self.path), shape=shape, chunks=chunks, dtype=dtype, overwrite=True
            )

    def write(self, start: int, values: np.ndarray) -> str:
        """Write whole chunks from row `start` on; return their SHA-256."""
        with writing(self.path):
            self._open("r+")[start : start + len(values)] = values
        return _digest(values)

    def read(self, start: int, rows: int, digest: str | None) -> np.ndarray:
        """Return rows as they were written.

        Arguments:
            start: first row of a chunk.
            rows: how many.
            digest: what `write` returned; None, where an earlier version has kept none, is not compared.

        Raises:
            DamagedError: they are not what `write` was given, or cannot be read.
        """
        array, values = self._open("r"), np.zeros(0)
        with suppress(OSError, RuntimeError, ValueError):  # of the decompression
            values = np.asarray(array[start : start + rows])
        if len(values) != rows or digest not in (None, _digest(values)):
            raise DamagedError(f"{self.path}, rows {start} to {start + rows - 1}: damaged")
        return values

    def damaged(self, digests: Sequence[str] | np.ndarray) -> list[int]:
        """Return the numbers of the chunks that are not what their digests say."""
        found = []
        for number, (start, rows) in enumerate(self._rows()):
            try:
                self.read(start, rows, str(digests[number]))
            except DamagedError:
                found.append(number)
        return found

    def lazy(self, digests: Sequence[str] | np.ndarray | None, advice: str = "") -> Any:
        """Return the array as `dask.array.Array` that reads the chunks that are asked for, and checks them.

        Arguments:
            digests: of the chunks, None where they are not known.
            advice: what makes a damaged chunk anew; it ends the error.
        """
        import dask.array

        array = self._open("r")
        chunks = tuple(rows for _, rows in self._rows()), *((size,) for size in array.shape[1:])
        reading = partial(_checked, self, digests, advice, array.chunks[0])
        return dask.array.map_blocks(
            reading, chunks=chunks, dtype=array.dtype, meta=np.empty(0, array.dtype)
        )

    def _rows(self) -> list[tuple[int, int]]:
        """Return first row and number of rows of each chunk."""
        array = self._open("r")
        total, size = array.shape[0], array.chunks[0]
        return [(start, min(size, total - start)) for start in range(0, total, size)]

    def _open(self, mode: Any) -> Any:
        try:
            return zarr.open_array(str(self.path), mode=mode)
        except (OSError, ValueError, KeyError) as error:
            raise DamagedError(f"{self.path} is damaged or missing: {error}") from error


def _checked(
    array: ChunkedArray,
    digests: Sequence[str] | np.ndarray | None,
    advice: str,
    size: int,
    block_info: Any = None,
) -> np.ndarray:
    """Return a chunk for dask, whose place `block_info` tells."""
    (start, stop), *_ = block_info[None]["array-location"]
    digest = None if digests is None else str(digests[start // size])
    try:
        return array.read(start, stop - start, digest)
    except DamagedError as error:
        raise DamagedError(f"{error}; {advice}") from error


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
