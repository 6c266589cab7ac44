"""The rows of an ABC run, their checksums, and their densities by the proposals of the generations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.abc.kept import Kept
from pipeline.config import load, simulator_of
from pipeline.run import RunDirectory
from pipeline.store import Damage, DamagedError, Outcome, Store, verify
from pipeline.store.observation import PROPOSAL

CLOSE = 1e-6  # difference of log densities that are computed again, also on another machine


def verify_abc(run: RunDirectory, key: str) -> list[Damage]:
    """Return all damage of the rows of an ABC run; an empty list means that there is none."""
    store = Store.open(run.abc(key) / "store")
    problems = verify(store)
    if problems:  # what is damaged is not read
        return problems
    kept = Kept.of(run.abc(key), simulator_of(load(run)))
    try:
        return list(_proposals(store, kept))
    except DamagedError as error:
        return [Damage("", str(kept.folder), str(error))]


def _proposals(store: Store, kept: Kept) -> Iterator[Damage]:
    generations = kept.generations()
    wanted, there = sum(n for _, _, n in generations), store.counts()["done"]
    if wanted != there:
        yield Damage("", "shards", f"{there} rows are there, the generations have {wanted}")
    for generation, first, n in generations:
        ids = np.intersect1d(np.arange(first, first + n), store.ids(Outcome.OK))
        rows = store.rows(ids)
        again = kept.log_prob(generation, rows.theta)
        bad = ids[~np.isclose(again, rows.x[PROPOSAL], rtol=0, atol=CLOSE)]
        if len(bad):
            message = f"of {len(bad)} rows, first {bad[0]}, is not that of generation {generation}"
            yield Damage("", PROPOSAL, message)
