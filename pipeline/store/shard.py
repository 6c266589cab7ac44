"""One shard: a Zarr v3 group written whole by one process and never changed again.

Every array is one uncompressed little-endian chunk, so that a range of rows is a range of bytes: it is
read straight from the chunk's file. A shard laid out otherwise is read through Zarr. The only file
that imports zarr.

`read`, `rows` and `arrays` return the present content. `column` and `hashes` compare it with the sealed
manifest, once for each array, and raise an error where it was changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.files import read_document, seal, synchronise, writing
from pipeline.store.errors import DamagedError, damaged
from pipeline.store.hash import row_hashes
from pipeline.store.manifest import Manifest, Runs
from pipeline.store.rows import Failure, Outcome, Rows, Schema, padded, winners, with_outputs

MANIFEST, METADATA, FAILURES = "manifest.json", "zarr.json", "failures.json"
MERGED = (
    "merged"  # folder of shards whose rows are in a later shard; kept for readers that opened them
)
T = TypeVar("T")
Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # (name, dtype, shape) of each array


@lru_cache(maxsize=32)
def _metadata(layout: Layout) -> dict[str, bytes]:
    """Return the Zarr metadata files of a group of arrays of one uncompressed chunk each."""
    import zarr

    files: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(files)
    group = zarr.create_group(memory, zarr_format=3)
    for name, dtype, shape in layout:
        group.create_array(
            name, shape=shape, dtype=dtype, chunks=shape, compressors=None, filters=None
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is an extension of Zarr v3
        zarr.consolidate_metadata(memory)
    return {name: content.to_bytes() for name, content in files.items()}


def _chunk(name: str, dimensions: int) -> str:
    return f"{name}/c/" + "/".join("0" * dimensions)


def write_shard(rows: Rows, temporary: Path, final: Path) -> None:
    """Write rows (conforming, at least one) as a shard that appears under `final` whole or not at all.

    Of several rows with the same id only the one that counts is kept; rows are stored in id order.
    """
    order = winners(rows.ids, rows.outcome)
    if len(order) < len(rows) or not np.array_equal(order, np.arange(len(rows))):
        rows = rows.take(order)
    hashes = row_hashes(rows)
    columns = _storable(rows) | {"hash": hashes}
    layout = tuple((name, array.dtype.str, array.shape) for name, array in columns.items())
    contents: dict[str, Any] = dict(_metadata(layout))
    for name, array in columns.items():
        contents[_chunk(name, array.ndim)] = array.reshape(-1).view(np.uint8).data
    if reasons := {failure.id: failure for failure in rows.failures}:
        bad = rows.ids[rows.outcome != Outcome.OK].tolist()
        specs = [reasons[number].spec() for number in bad if number in reasons]
        contents[FAILURES] = json.dumps(specs).encode()
    with writing(temporary):
        try:
            _write_files(temporary, contents, rows, hashes)
            os.rename(temporary, final)
            synchronise([final.parent])
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _storable(rows: Rows) -> dict[str, np.ndarray]:
    """Return the columns with at least one element per row: an empty chunk cannot be stored."""
    columns = rows.columns()
    for name in rows.lengths:
        columns[f"x/{name}"] = padded(rows.x[name], max(1, rows.x[name].shape[1]))
    return {name: np.ascontiguousarray(array) for name, array in columns.items()}


def _write_files(folder: Path, contents: dict[str, Any], rows: Rows, hashes: np.ndarray) -> None:
    folder.mkdir()
    files = {}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = Manifest.of(rows, hashes, files)
    (folder / MANIFEST).write_text(seal(manifest.spec()), encoding="utf-8")
    synchronise([folder, *folder.rglob("*")])


@dataclass(frozen=True)
class Shard:
    """A shard on disk, read by ranges of rows; while `reader` exists the shard is not deleted."""

    path: Path
    reader: object = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shard, (self.path,)

    def _found(self, name: str, read: Callable[[Path], T]) -> T:
        """Read one of its files, also after it was merged into a later shard."""
        try:
            return read(self.path / name)
        except FileNotFoundError as missing:
            try:
                return read(self.path.parent.parent / MERGED / self.path.name / name)
            except FileNotFoundError:
                raise missing from None

    def open(self, name: str) -> BufferedReader:
        """Open one of its files."""
        return self._found(name, lambda path: open(path, "rb"))

    @cached_property
    def manifest(self) -> Manifest:
        """Its manifest; `DamagedError` if it is not as it was written."""
        try:
            return Manifest.from_spec(self._found(MANIFEST, read_document), self.path)
        except (OSError, DamagedError, KeyError, ValueError, TypeError) as error:
            raise damaged(self.path, f"{MANIFEST} is missing or not as it was written") from error

    @cached_property
    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...], bool]]:
        """Dtype, shape and whether it is one plain chunk, of every array by its name."""
        try:
            with self.open(METADATA) as file:
                metadata = json.loads(file.read())
            nodes = metadata["consolidated_metadata"]["metadata"]
            arrays = {
                name: _array(node) for name, node in nodes.items() if node["node_type"] == "array"
            }
            n = arrays["id"][1][0]
            if any(shape[0] != n for _, shape, _ in arrays.values()):
                raise ValueError("arrays differ in their number of rows")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise damaged(self.path, f"it cannot be opened: {error!r}") from error
        return arrays

    def __len__(self) -> int:
        return int(self.arrays["id"][1][0])

    @property
    def schema(self) -> Schema | None:
        """Return the outputs it holds, `None` if there are none."""
        outputs, ragged = {}, set()
        for name, (dtype, shape, _) in self.arrays.items():
            if name.startswith("x/"):
                outputs[name.removeprefix("x/")] = (dtype.str, shape[1:])
            elif name.startswith("lengths/"):
                ragged.add(name.removeprefix("lengths/"))
        return Schema(outputs, frozenset(ragged)) if outputs else None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows `start` to `stop` of one array."""
        dtype, shape, plain = self.arrays[name]
        start, stop, _ = slice(start, stop).indices(shape[0])
        if not plain:
            return self._read_zarr(name, start, stop)
        width = int(np.prod(shape[1:]))
        count, offset = max(stop - start, 0) * width, start * width * dtype.itemsize
        try:
            with self.open(_chunk(name, len(shape))) as file:
                values = np.fromfile(file, dtype, count, offset=offset)
        except OSError as error:
            raise damaged(self.path, f"array {name!r} cannot be read: {error}") from error
        if len(values) != count:
            raise damaged(self.path, f"array {name!r} is shorter than its shape")
        return values.reshape(-1, *shape[1:])

    def _read_zarr(self, name: str, start: int, stop: int) -> np.ndarray:
        import zarr

        try:
            return self._found(
                "", lambda path: np.asarray(zarr.open_group(path, mode="r")[name][start:stop])
            )
        except (OSError, ValueError, KeyError) as error:
            raise damaged(self.path, f"array {name!r} cannot be read: {error!r}") from error

    @cached_property
    def _compared(self) -> set[str]:
        """The arrays and files that were compared with the manifest."""
        return set()

    def require(self, name: str) -> None:
        """Raise `DamagedError` unless an array's files, or the file of this name, are those that were written."""
        if name in self._compared:
            return
        files = self.manifest.files
        chosen = (
            [name] if name in files else [file for file in files if file.startswith(f"{name}/")]
        )
        for file in chosen:
            try:
                with self.open(file) as content:
                    found = hashlib.file_digest(content, "sha256").hexdigest()
            except OSError as error:
                raise damaged(self.path, f"{file} cannot be read: {error.strerror}") from error
            if found != files[file]["sha256"]:
                raise damaged(self.path, f"{file} is not as it was written")
        self._compared.add(name)

    def column(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows `start` to `stop` of one array, as it was written."""
        self.require(METADATA)
        self.require(name)
        return self.read(name, start, stop)

    def hashes(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the row hashes (n, 2) as they were written; they are checked by their sums."""
        sums = self.manifest.hashes
        if sums is None:
            return self.column("hash", start, stop)
        if "hash" not in self._compared:
            self.require(METADATA)
            if not np.array_equal(self.read("hash").sum(axis=0), sums):
                raise damaged(self.path, "its row hashes are not as they were written")
            self._compared.add("hash")
        return self.read("hash", start, stop)

    @cached_property
    def runs(self) -> Runs:
        """The ids and outcomes of its rows, as they were written."""
        known = self.manifest.runs
        return known or Runs.of(self.column("id"), self.column("outcome"))

    def failures(self) -> tuple[Failure, ...]:
        """Return the reasons of all rows that are not ok."""
        try:
            with self.open(FAILURES) as file:
                return tuple(Failure.from_spec(spec) for spec in json.loads(file.read()))
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(self.path, f"{FAILURES} cannot be read: {error!r}") from error

    def rows(self, start: int = 0, stop: int | None = None, schema: Schema | None = None) -> Rows:
        """Return rows `start` to `stop`; outputs are zeros if the shard holds none.

        The reasons of failures are not read (see `failures`).
        """
        columns = {name: self.read(name, start, stop) for name in self.arrays if name != "hash"}
        return with_outputs(Rows.from_columns(columns, ()), schema)

    def problems(self) -> list[tuple[str, str]]:
        """Return (file, damage) for every file that is not as it was written."""
        try:
            expected = self.manifest.files
        except DamagedError:
            return [(MANIFEST, "is missing or damaged")]
        found = []
        for name, stated in expected.items():
            try:
                content = (self.path / name).read_bytes()
            except OSError as error:
                found.append((name, f"cannot be read: {error.strerror}"))
                continue
            if len(content) != stated["size"]:
                found.append((name, f"has {len(content)} bytes, not {stated['size']}"))
            elif hashlib.sha256(content).hexdigest() != stated["sha256"]:
                found.append((name, "does not match its checksum"))
        present = {
            str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()
        }
        found += [(name, "is not in the manifest") for name in present - set(expected) - {MANIFEST}]
        return found

    def intact(self) -> np.ndarray:
        """Return which rows (n,) still match their hash, i.e. id, theta, outcome and x are as written."""
        return np.all(row_hashes(self.rows()) == self.read("hash"), axis=1)


def _array(node: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...], bool]:
    shape = tuple(int(size) for size in node["shape"])
    dtype = np.dtype(node["data_type"]).newbyteorder("<")
    chunk = tuple(node["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = node["chunk_key_encoding"]
    raw = ([{"name": "bytes"}], [{"name": "bytes", "configuration": {"endian": "little"}}])
    slashes = encoding == {"name": "default", "configuration": {"separator": "/"}}
    plain = chunk == shape and node["codecs"] in raw and slashes
    return dtype, shape, plain
