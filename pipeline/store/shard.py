"""One shard: a Zarr v3 group written whole by one process and never changed again.

Every array is one uncompressed little-endian chunk, so that a range of rows is a range of bytes: it is
read straight from the chunk's file. A shard laid out otherwise is read through Zarr. The only file
that imports zarr.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.errors import DamagedError
from pipeline.store.files import read_document, seal, synchronise, writing
from pipeline.store.hash import row_hashes
from pipeline.store.rows import Failure, Outcome, Rows, Schema, padded, winners, with_outputs

FORMAT = 1
MANIFEST, METADATA, FAILURES = "manifest.json", "zarr.json", "failures.json"
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
    columns = _storable(rows) | {"hash": row_hashes(rows)}
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
            _write_files(temporary, contents, rows)
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


def _write_files(folder: Path, contents: dict[str, Any], rows: Rows) -> None:
    folder.mkdir()
    files = {}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "format": FORMAT,
        "rows": len(rows),
        "ids": [int(rows.ids[0]), int(rows.ids[-1])],
        "files": files,
    }
    (folder / MANIFEST).write_text(seal(manifest), encoding="utf-8")
    synchronise([folder, *folder.rglob("*")])


@dataclass(frozen=True)
class Shard:
    """A shard on disk, read by ranges of rows."""

    path: Path

    @cached_property
    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...], bool]]:
        """Dtype, shape and whether it is one plain chunk, of every array by its name."""
        try:
            metadata = json.loads((self.path / METADATA).read_bytes())
            nodes = metadata["consolidated_metadata"]["metadata"]
            arrays = {
                name: _array(node) for name, node in nodes.items() if node["node_type"] == "array"
            }
            n = arrays["id"][1][0]
            if any(shape[0] != n for _, shape, _ in arrays.values()):
                raise ValueError("arrays differ in their number of rows")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DamagedError(f"shard {self.path} cannot be opened: {error!r}") from error
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
            values = np.fromfile(self.path / _chunk(name, len(shape)), dtype, count, offset=offset)
        except OSError as error:
            raise DamagedError(f"array {name!r} of shard {self.path}: {error}") from error
        if len(values) != count:
            raise DamagedError(f"array {name!r} of shard {self.path} is shorter than its shape")
        return values.reshape(-1, *shape[1:])

    def _read_zarr(self, name: str, start: int, stop: int) -> np.ndarray:
        import zarr

        try:
            return np.asarray(zarr.open_group(self.path, mode="r")[name][start:stop])
        except (OSError, ValueError, KeyError) as error:
            raise DamagedError(f"array {name!r} of shard {self.path}: {error!r}") from error

    def failures(self) -> tuple[Failure, ...]:
        """Return the reasons of all rows that are not ok."""
        try:
            text = (self.path / FAILURES).read_bytes()
        except FileNotFoundError:
            return ()
        try:
            return tuple(Failure.from_spec(spec) for spec in json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedError(f"{self.path / FAILURES} is damaged: {error!r}") from error

    def rows(self, start: int = 0, stop: int | None = None, schema: Schema | None = None) -> Rows:
        """Return rows `start` to `stop`; outputs are zeros if the shard holds none.

        The reasons of failures are not read (see `failures`).
        """
        columns = {name: self.read(name, start, stop) for name in self.arrays if name != "hash"}
        return with_outputs(Rows.from_columns(columns, ()), schema)

    def problems(self) -> list[tuple[str, str]]:
        """Return (file, what is wrong) for every file that is not as it was written."""
        try:
            expected = read_document(self.path / MANIFEST)["files"]
        except (OSError, DamagedError):
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
        """Return which rows (n,) still match their hash, i.e. id, theta, outcome and x are sound."""
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
