"""A large array on disk in chunks of whole rows, one writer for each chunk, as a Zarr array."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.errors import DamagedError
from pipeline.files import writing


@dataclass(frozen=True)
class ChunkedArray:
    """Rows of an array, written and read a chunk at a time.

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
        with writing(self.path):
            if self.path.exists():
                found = self._open("r+")
                if found.shape == shape and found.chunks == chunks and found.dtype == dtype:
                    return
            zarr.create_array(
                str(self.path), shape=shape, chunks=chunks, dtype=dtype, overwrite=True
            )

    def write(self, start: int, values: np.ndarray) -> str:
        """Write whole chunks from row `start` on; return their SHA-256."""
        with writing(self.path):
            self._open("r+")[start : start + len(values)] = values
        return _digest(values)

    def read(self, start: int, rows: int, digest: str) -> np.ndarray:
        """Return rows as they were written.

        Raises:
            DamagedError: they are not what `write` was given.
        """
        array, values = self._open("r"), np.zeros(0)
        with suppress(OSError, RuntimeError, ValueError):  # of the decompression
            values = np.asarray(array[start : start + rows])
        if _digest(values) != digest:
            raise DamagedError(f"{self.path}, rows {start} to {start + rows - 1}: damaged")
        return values

    def view(self, *names: str) -> Any:
        """Return the array as `xarray.DataArray` that reads what is asked for; `names` are its axes."""
        import dask.array
        import xarray

        return xarray.DataArray(dask.array.from_zarr(self._open("r")), dims=names)

    def _open(self, mode: Any) -> Any:
        try:
            return zarr.open_array(str(self.path), mode=mode)
        except (OSError, ValueError, KeyError) as error:
            raise DamagedError(f"{self.path} is damaged or missing: {error}") from error


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
