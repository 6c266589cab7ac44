"""Reading a data set: the rows of an array, an .npy, .npz or idx file.

An idx file (the format of MNIST) begins with two zero bytes, the code of its type and its number of axes;
then come the lengths of the axes as 4 bytes each and the values, all with the highest byte first.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX = (".idx", "-ubyte")
VALID = ".npy, .npz, .idx, .idx.gz, -ubyte or -ubyte.gz"
ROWS = 4096  # looked at together


def read_data(data: ArrayLike | str | Path, key: str | None = None) -> NDArray[Any]:
    """Return the rows of a data set, shape (n, ...); those of an .npy file stay on the disk until they are used.

    Arguments:
        data: an array, or the path of a file.
        key: which array of an .npz file.

    Raises:
        ValueError: a file that cannot be read, or rows that are not finite real numbers.
        TypeError: a key for something else than an .npz file, or an array of another kind.
    """
    path = Path(data) if isinstance(data, str | Path) else None
    if key is not None and (path is None or path.suffix != ".npz"):
        raise TypeError(f"key={key!r} names an array of an .npz file, and the data set is none")
    what = f"the data set {str(path)!r}" if path else "the data set"
    values = np.asarray(data) if path is None else _read(path, key)
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise TypeError(f"{what} must hold real numbers, got dtype {values.dtype}")
    if values.ndim < 2 or not values.size:
        raise ValueError(f"{what} must have shape (rows, ...), not empty; got shape {values.shape}")
    if values.dtype.kind == "f":
        for start in range(0, len(values), ROWS):
            part = np.isfinite(values[start : start + ROWS]).reshape(
                -1, math.prod(values.shape[1:])
            )
            if not part.all():
                row = start + int(np.flatnonzero(~part.all(axis=1))[0])
                raise ValueError(f"{what} holds NaN or infinity, first in row {row}")
    return values


def _read(path: Path, key: str | None) -> NDArray[Any]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(IDX):
            return read_idx(path)
        if path.suffix == ".npz":
            return _read_npz(path, key)
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ValueError(f"the data set {str(path)!r} cannot be read: {error}") from None
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"the data set {str(path)!r} is damaged: {error}") from None
    raise ValueError(f"the data set {str(path)!r} has an unknown ending; valid: {VALID}")


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        names = ", ".join(arrays.files)
        if key is None and len(arrays.files) != 1:
            raise ValueError(f"it holds several arrays, choose one by key; valid: {names}")
        if key is not None and key not in arrays.files:
            raise ValueError(f"it has no array {key!r}; valid: {names}")
        values: NDArray[Any] = arrays[key or arrays.files[0]]
        return values


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an idx file, compressed by gzip or not, in this machine's byte order.

    Raises:
        ValueError: it is no idx file, or shorter or longer than it says.
        OSError: it cannot be read.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise ValueError(
            f"{path} is no idx file: it begins with {content[:4].hex(' ') or 'nothing'}"
        )
    dtype, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    size = start + math.prod(shape) * dtype.itemsize
    if len(shape) != axes or len(content) != size:
        raise ValueError(f"{path} has {len(content)} bytes, its head says {size} for shape {shape}")
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
