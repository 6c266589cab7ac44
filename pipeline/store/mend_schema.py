"""Restore a damaged `schema.json`."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.files import write_document
from pipeline.progress import log
from pipeline.store.damage import openable, schema_problems, shards_of
from pipeline.store.rows import Schema
from pipeline.store.spool import read_spool
from pipeline.store.store import Store


def mend_schema(store: Store) -> None:
    """Restore a damaged or missing `schema.json` from an undamaged shard, or from rows in spools.

    Raises:
        PipelineError: there are neither.
    """
    if not schema_problems(store):
        return
    path = store.path / "schema.json"
    shards = [shard for shard in openable(shards_of(store)) if not shard.problems()]
    known = next((shard.schema for shard in shards if shard.schema), None) or _spooled(store)
    if known is None:
        raise PipelineError(
            f"{path} is damaged and no undamaged shard holds outputs: delete it if the store has no outputs, "
            "or restore it from a copy"
        )
    log(f"store: {path} was damaged or missing; it was restored from the rows")
    write_document(path, known.spec())


def _spooled(store: Store) -> Schema | None:
    """Return the outputs of the first rows in spools that have any."""
    for path in sorted((store.path / "sessions").glob("**/*.spool")):
        for rows in read_spool(path):
            if rows.x:
                arrays = {
                    name: (value.dtype.str, value.shape[1:]) for name, value in rows.x.items()
                }
                return Schema(arrays, frozenset(rows.lengths))
    return None
