"""Find damage and mend it: whatever is not sound is put aside, so that its ids are missing again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PipelineError
from pipeline.store.errors import DamagedError
from pipeline.store.files import read_document, write_document
from pipeline.store.rows import Outcome, Rows, Schema
from pipeline.store.shard import FAILURES, MANIFEST, Shard

if TYPE_CHECKING:
    from pipeline.store.store import Store


@dataclass(frozen=True)
class Problem:
    """Something wrong: the shard (empty: the store itself), the file in it, and what is wrong."""

    shard: str
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.shard}/{self.file}: {self.message}".lstrip("/")


def verify(store: Store) -> list[Problem]:
    """Return everything that is not as it was written; an empty list means sound."""
    problems = _schema_problems(store)
    shards = _shards(store)
    sound = []
    for shard in shards:
        found = _shard_problems(shard, None if problems else store.schema)
        problems += [Problem(shard.path.name, file, message) for file, message in found]
        if not found:
            sound.append(shard)
    return problems + _conflicts(sound)


def _shards(store: Store) -> list[Shard]:
    return [Shard(path) for path in sorted((store.path / "shards").iterdir())]


def _schema_problems(store: Store) -> list[Problem]:
    path = store.path / "schema.json"
    try:
        Schema.from_spec(read_document(path))
    except FileNotFoundError:
        if any("x/" in name for shard in _openable(_shards(store)) for name in shard.arrays):
            return [Problem("", path.name, "is missing")]
    except DamagedError:
        return [Problem("", path.name, "does not match its checksum")]
    return []


def _openable(shards: list[Shard]) -> list[Shard]:
    opened = []
    for shard in shards:
        try:
            len(shard)
        except DamagedError:
            continue
        opened.append(shard)
    return opened


def _shard_problems(shard: Shard, schema: Schema | None) -> list[tuple[str, str]]:
    if not shard.path.name.isdecimal():
        return [(".", "does not belong here")]
    found = shard.problems()
    if found:
        return found
    ids = shard.read("id")
    if np.any(ids[1:] <= ids[:-1]):
        found.append(("id", "ids are not increasing"))
    if wrong := int((~shard.intact()).sum()):
        found.append(("hash", f"{wrong} rows do not match their hash"))
    if schema and shard.schema not in (None, schema):
        found.append(("zarr.json", "outputs differ from schema.json"))
    return found


def _conflicts(shards: list[Shard]) -> list[Problem]:
    """Find ids with two ok rows that differ: a simulator that is no function of its seed."""
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
        Problem(
            shards[where[order[k + 1]]].path.name,
            "id",
            f"id {every[order[k]]} lies in "
            f"{shards[where[order[k]]].path.name} too, with another result",
        )
        for k in np.flatnonzero(differ)
    ]


def repair(store: Store) -> np.ndarray:
    """Put damaged shards aside, keep their rows that still match their hash, and restore schema.json.

    Returns the ids (n,) that are lost and have to be simulated again. Takes the writer's lock.
    """
    writer, lost = store.writer(), [np.zeros(0, np.int64)]
    writer.acquire()  # adopting comes later: it reads the shards
    try:
        if _schema_problems(store):
            _restore_schema(store)
        aside = []
        for shard in _shards(store):
            if _shard_problems(shard, store.schema):
                lost.append(_ids(shard))
                aside.append(Shard(writer.quarantine(shard.path)))
        writer.commit(rows for shard in aside if (rows := _salvaged(shard)) is not None)
        writer.adopt()
    finally:
        writer.release()
    return np.setdiff1d(np.concatenate(lost), store.ids())


def _restore_schema(store: Store) -> None:
    schemas = [shard.schema for shard in _openable(_shards(store)) if not shard.problems()]
    known = next((schema for schema in schemas if schema), None)
    if known is None:
        raise PipelineError(
            f"{store.path / 'schema.json'} is damaged and no sound shard tells the outputs: delete it "
            "if the store holds no outputs, or restore it from a copy"
        )
    write_document(store.path / "schema.json", known.spec())


def _salvaged(shard: Shard) -> Rows | None:
    """Return the rows that are certainly sound, `None` if there are none or the shard is unreadable."""
    damaged = {file for file, _ in shard.problems()}
    try:
        rows, intact = shard.rows(), shard.intact()
        if FAILURES in damaged:
            intact &= rows.outcome == Outcome.OK
        else:
            rows = replace(rows, failures=shard.failures())
    except (DamagedError, ValueError, KeyError, MemoryError):
        return None
    if any(file.startswith("seconds/") for file in damaged):
        rows = replace(rows, seconds=np.full(len(rows), np.nan, np.float32))
    return rows.take(np.flatnonzero(intact)) if intact.any() else None


def _ids(shard: Shard) -> np.ndarray:
    """Return the ids a damaged shard held, or all in their range if the ids themselves are in doubt."""
    try:
        manifest = read_document(shard.path / MANIFEST)
    except (OSError, DamagedError):
        manifest = None
    damaged = {file for file, _ in shard.problems()}
    try:
        if manifest and any(file.startswith("id/") for file in damaged):
            return np.arange(manifest["ids"][0], manifest["ids"][1] + 1)
        return shard.read("id")
    except DamagedError:
        return (
            np.arange(manifest["ids"][0], manifest["ids"][1] + 1) if manifest else np.zeros(0, int)
        )
