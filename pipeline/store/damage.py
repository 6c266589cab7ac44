"""Compare a store with its checksums: every file, every row, and rows of different shards with each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.files import read_document
from pipeline.store.errors import DamagedError
from pipeline.store.manifest import Runs
from pipeline.store.rows import Outcome, Schema
from pipeline.store.shard import MANIFEST, Shard
from pipeline.store.store import Store

SOURCE = "source.json"  # of the simulator; missing where no simulator made the store


@dataclass(frozen=True)
class Damage:
    """Damage in a store: the shard (empty: the store itself), the file in it, and what is wrong."""

    shard: str
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.shard}/{self.file}: {self.message}".lstrip("/")


def verify(store: Store) -> list[Damage]:
    """Compare everything with its checksums and return all damage; an empty list means that there is none."""
    problems = schema_problems(store)
    schema = None if problems else store.schema
    problems += source_problems(store)
    undamaged = []
    for shard in shards_of(store):
        found = shard_problems(shard, schema)
        problems += [Damage(shard.path.name, file, message) for file, message in found]
        if not found:
            undamaged.append(shard)
    return problems + _conflicts(undamaged)


def shards_of(store: Store) -> list[Shard]:
    """Return the shards of a store in the order of their names."""
    return [Shard(path) for path in sorted((store.path / "shards").iterdir())]


def schema_problems(store: Store) -> list[Damage]:
    """Return what is wrong with a store's schema."""
    path = store.path / "schema.json"
    try:
        Schema.from_spec(read_document(path))
    except FileNotFoundError:
        if any("x/" in name for shard in openable(shards_of(store)) for name in shard.arrays):
            return [Damage("", path.name, "is missing")]
    except DamagedError:
        return [Damage("", path.name, "does not match its checksum")]
    return []


def source_problems(store: Store) -> list[Damage]:
    """Return what is wrong with a store's record of the simulator's source."""
    try:
        read_document(store.path / SOURCE)
    except FileNotFoundError:
        return []
    except DamagedError:
        return [Damage("", SOURCE, "does not match its checksum")]
    return []


def openable(shards: list[Shard]) -> list[Shard]:
    """Return the shards whose manifest can be read."""
    opened = []
    for shard in shards:
        try:
            len(shard)
        except DamagedError:
            continue
        opened.append(shard)
    return opened


def shard_problems(shard: Shard, schema: Schema | None) -> list[tuple[str, str]]:
    """Return what is wrong with a shard, as pairs of array and message."""
    if not shard.path.name.isdecimal():
        return [(".", "does not belong here")]
    found = shard.problems()
    if found:
        return found
    ids = shard.read("id")
    if np.any(ids[1:] <= ids[:-1]):
        found.append(("id", "ids are not increasing"))
    stated, runs = shard.manifest, Runs.of(ids, shard.read("outcome"))
    if stated.rows != len(ids) or not all(map(np.array_equal, stated.runs or runs, runs)):
        found.append((MANIFEST, "states other rows than there are"))
    if wrong := int((~shard.intact()).sum()):
        found.append(("hash", f"{wrong} rows do not match their hash"))
    if schema and shard.schema not in (None, schema):
        found.append(("zarr.json", "outputs differ from schema.json"))
    return found


def _conflicts(shards: list[Shard]) -> list[Damage]:
    """Find ids with two ok rows that differ: the simulator does not depend on its seed alone."""
    if not shards:
        return []
    ids, hashes, shard = [], [], []
    for number, one in enumerate(shards):
        ok = one.read("outcome") == Outcome.OK
        ids.append(one.read("id")[ok])
        hashes.append(one.read("hash")[ok])
        shard.append(np.full(int(ok.sum()), number))
    every, hashed, where = np.concatenate(ids), np.concatenate(hashes), np.concatenate(shard)
    order = np.argsort(every, kind="stable")
    same = every[order[1:]] == every[order[:-1]]
    differ = same & np.any(hashed[order[1:]] != hashed[order[:-1]], axis=1)
    return [
        Damage(
            shards[where[order[k + 1]]].path.name,
            "id",
            f"id {every[order[k]]} is in "
            f"{shards[where[order[k]]].path.name} too, with another result",
        )
        for k in np.flatnonzero(differ)
    ]
