"""Repair a store: damaged shards are put aside, so that the ids of their damaged rows are missing again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.files import read_document
from pipeline.store.damage import SOURCE, shard_problems, shards_of, source_problems
from pipeline.store.errors import DamagedError
from pipeline.store.mend_schema import mend_schema
from pipeline.store.rows import Outcome, Rows
from pipeline.store.shard import FAILURES, MANIFEST, Shard
from pipeline.store.store import Store
from pipeline.store.writer import Writer


def repair(store: Store) -> np.ndarray:
    """Put damaged shards aside, keep their rows that still match their hash, and restore schema.json.

    A damaged source.json is put aside as well: the next simulations record the source anew.

    Returns the ids (n,) that are lost and have to be simulated again. Takes the writer's lock.
    """
    writer, lost = Writer(store), [np.zeros(0, np.int64)]
    writer.acquire()  # sessions are adopted below, as that reads the shards
    try:
        mend_schema(store)
        if source_problems(store):
            writer.quarantine(store.path / SOURCE)
        aside = []
        for shard in shards_of(store):
            if shard_problems(shard, store.schema):
                lost.append(_ids(shard))
                aside.append(Shard(writer.quarantine(shard.path)))
        writer.commit(rows for shard in aside if (rows := _salvaged(shard)) is not None)
        writer.adopt()
    finally:
        writer.release()
    return np.setdiff1d(np.concatenate(lost), store.ids())


def _salvaged(shard: Shard) -> Rows | None:
    """Return the rows that match their hashes, `None` if there are none or the shard is unreadable."""
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
