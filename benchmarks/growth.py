"""A store that grows in very many small steps: files, rows in small shards, and the digest.

Each step is a session of its own: the store is opened, a few real two-moons simulations are appended to a spool,
and the writer folds the spool and merges small shards. The same rows are then written in one go to compare the
digests. A shard is small below a quarter of the target size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config as configuration
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import SimulationSpec, schema_of
from pipeline.store import Spool, Store, Writer, verify
from pipeline.store.merge import SMALL

SHARD_BYTES = 4 << 10  # times the rows of a step: about thirty shards in the end


def append(store: Store, spec: SimulationSpec, stop: int) -> None:
    """Bring a store up to `stop` rows, in one session."""
    ids = np.arange(store.counts()["done"], stop)
    block = spec.key_size
    parts = np.split(ids, np.flatnonzero(np.diff(ids // block)) + 1)
    with Writer(store) as writer:
        schema = store.schema or schema_of(spec.run(ids[:1]), spec.simulator.ragged)
        writer.set_schema(schema)
        with Spool(writer.spool_directory, "0", schema, writer.rows_per_shard(schema)) as spool:
            for part in parts:
                spool.append(spec.run(part).conform(schema))


def shape(store: Store) -> dict[str, Any]:
    """Return files, shards and the share of rows in small shards."""
    sizes = np.array([len(view) for view in store.shards()])
    target = Writer(store).rows_per_shard(store.schema)
    return {
        "files": sum(path.is_file() for path in store.path.rglob("*")),
        "shards": len(sizes),
        "target_rows": target,
        "share_in_small_shards": float(sizes[sizes < SMALL * target].sum() / sizes.sum()),
    }


def grow(folder: Path, steps: int, rows: int, shard_bytes: int) -> dict[str, Any]:
    """Grow a store and return what it is like, on the way and at the end."""
    settings = {"name": "growth", "simulator": "two_moons", "budget": steps * rows, "test": 0}
    spec = spec_of(configuration.build(settings), "train")
    path, most_files, largest = folder / "steps", 0, 0.0
    Store.create(path, identity(spec), shard_bytes=shard_bytes)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        append(Store.open(path), spec, step * rows)
        if step % 25 == 0:
            now = shape(Store.open(path))
            most_files = max(most_files, now["files"])
            if step * rows > 4 * now["target_rows"]:  # fewer shards have no share to speak of
                largest = max(largest, now["share_in_small_shards"])
    seconds = time.perf_counter() - started
    whole = Store.create(folder / "whole", identity(spec), shard_bytes=shard_bytes)
    append(whole, spec, steps * rows)
    store = Store.open(path)
    return {
        **{"steps": steps, "rows_of_a_step": rows, "shard_bytes": shard_bytes},
        **shape(store),
        "files_in_one_go": shape(whole)["files"],
        "most_files": most_files,
        "largest_share": largest,
        "same_digest": store.digest() == whole.digest(),
        "sound": verify(store) == [],
        "seconds_a_step": seconds / steps,
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10], help="of a step")
    given, result = parser.parse_args(), {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            found = grow(Path(folder), given.steps, rows, SHARD_BYTES * rows)
        result[f"{rows} rows a step"] = found
        print(found, file=sys.stderr)
    print(json.dumps({"benchmark": "growth", **result}))


if __name__ == "__main__":
    main()
