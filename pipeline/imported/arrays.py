"""Arrays from files: .npy, .npz and .csv."""

from __future__ import annotations

import csv
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file by name ("" where it has none), and the names of its columns."""

    path: Path
    arrays: dict[str, np.ndarray]
    columns: tuple[str, ...] = field(default=())


def read_arrays(path: Path) -> Arrays:
    """Read all arrays of a file.

    Raises:
        UsageError: another kind of file, or one that cannot be read.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UsageError(f"{path}: valid are files that end in {', '.join(READERS)}")
    with reading(path):
        return reader(path)


UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, SyntaxError, MemoryError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of numpy and zipfile about a damaged file, or one of another kind, into a `UsageError`."""
    try:
        yield
    except UNREADABLE as error:
        raise UsageError(f"cannot read {path}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects, which could run code; valid are arrays of numbers"
    return str(error) or "it is damaged"


def require_numbers(place: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that would lose something on their way to real numbers.

    Arguments:
        place: where they come from, for the message.
        arrays: by name, "" for one without a name.
    """
    for name, values in arrays.items():
        named = f" in {name!r}" if name else ""
        if np.ma.isMaskedArray(values):
            raise UsageError(f"{place} holds a masked array{named}: fill in what is masked")
        if (kind := np.asarray(values).dtype).kind not in "biuf":
            raise UsageError(f"{place} holds {kind}{named}: valid are real numbers")


def check_out(path: Path) -> None:
    """Check that a file can be written to `path`."""
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder: name a file, like {path / 'name.npz'}")
    if path.exists() and not path.is_file():
        raise UsageError(f"--out {path} is not a regular file: name another one")
    for place in path.parents:
        if os.path.lexists(place) and not place.is_dir():
            raise UsageError(f"--out {path}: {place} is no folder")


def _read_npy(path: Path) -> Arrays:
    return Arrays(path, {"": np.load(path, allow_pickle=False)})


def _read_npz(path: Path) -> Arrays:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it holds one array: name it .npy")
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    return Arrays(path, arrays, tuple(map(str, arrays.pop("names", ()))))


def _read_csv(path: Path) -> Arrays:
    """Read numbers with one line per row; a first line of names is a head, an empty cell is NaN."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = [cell.strip() for cell in next(csv.reader(file), [])]
    head = tuple(first) if not all(map(_is_number, first)) else ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of a file without rows
        try:
            rows = np.genfromtxt(
                path, delimiter=",", skip_header=bool(head), ndmin=2, encoding="utf-8-sig"
            )
        except UserWarning:
            raise ValueError("it has no rows") from None
    _check_cells(path, rows, bool(head))
    if head and len(head) != rows.shape[1]:
        raise ValueError(f"{len(head)} names stand above {rows.shape[1]} columns")
    return Arrays(path, {"": rows}, head)


def _check_cells(path: Path, rows: np.ndarray, head: bool) -> None:
    """Refuse cells that hold text: numpy reads them as NaN, like empty cells."""
    if not np.isnan(rows).any():
        return
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        for line, cells in enumerate(lines, 1):
            bad = [cell for cell in cells if cell.strip() and not _is_number(cell)]
            if bad and not (head and line == 1):
                raise ValueError(f"line {line} holds {bad[0]!r}, which is no number")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
}
