"""Which ids are to be simulated, in which blocks: the same for all who take part."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.preflight import Facts, differences, facts
from pipeline.errors import PipelineError
from pipeline.run import write_whole
from pipeline.simulation.actor import PACKAGES
from pipeline.store import Outcome

DISTRIBUTIONS = ("numpy", "zarr")


@dataclass(frozen=True, eq=False)
class Plan:
    """Ids (n,) sorted, and where each block begins: `edges` (blocks + 1,), positions in `ids`.

    Rows of the outcomes `again` are among the ids: they are simulated although they are there. `file` is what
    tells the plan's file from a later one of the same name.
    """

    ids: np.ndarray
    edges: np.ndarray
    again: tuple[Outcome, ...] = ()
    file: tuple[int, int] | None = None

    @classmethod
    def of(cls, ids: np.ndarray, key: int, blocks: int, again: tuple[Outcome, ...] = ()) -> Plan:
        """Cut ids into at most so many blocks; ids that share a key, `id // key`, stay together."""
        keys = ids // key
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        parts = np.linspace(0, len(starts), min(blocks, len(starts)) + 1).astype(int)
        return cls(ids, np.append(starts, len(ids))[parts], again)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def block(self, number: int) -> np.ndarray:
        """Return the ids (m,) of a block."""
        return self.ids[self.edges[number] : self.edges[number + 1]]

    def blocks_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of the block (m,) that each id is in."""
        return np.searchsorted(self.edges, np.searchsorted(self.ids, ids), side="right") - 1

    def write(self, path: Path, source_digest: str) -> None:
        """Write the plan and what its maker's code is."""
        starts = np.flatnonzero(np.diff(self.ids, prepend=-2) != 1)
        stops = np.append(starts[1:], len(self.ids)) - 1
        ranges = np.stack([self.ids[starts], self.ids[stops] + 1], axis=1) if len(starts) else None
        text = json.dumps(
            {
                "ids": [] if ranges is None else ranges.tolist(),
                "edges": self.edges.tolist(),
                "again": [outcome.name for outcome in self.again],
                "source_digest": source_digest,
                "code": asdict(facts(PACKAGES, DISTRIBUTIONS)),
            }
        )
        write_whole(path, text)

    @classmethod
    def read(cls, path: Path, source_digest: str) -> Plan:
        """Read a plan made by the same code.

        Raises:
            FileNotFoundError: there is none.
            PipelineError: the code is another here.
        """
        with open(path, encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
            identity = _identity(os.fstat(file.fileno()))
        different = differences(
            Facts(**values["code"]), facts(PACKAGES, DISTRIBUTIONS, loaded=True)
        )
        if values["source_digest"] != source_digest:
            different.append("the simulator's source is another")
        if different:
            raise PipelineError(
                f"this process' code is not that of the one that made {path}: {'; '.join(different)}; "
                f"if that is on purpose, delete {path.parent} once no process uses it"
            )
        ids = [np.arange(first, stop) for first, stop in values["ids"]]
        again = tuple(Outcome[name] for name in values["again"])
        whole = np.concatenate(ids) if ids else np.zeros(0, np.int64)
        return cls(whole, np.array(values["edges"]), again, identity)

    def lies_in(self, path: Path) -> bool:
        """Whether this plan was read from the file that is there now."""
        try:
            with open(path, "rb") as file:  # opening asks the server, not a cache
                return _identity(os.fstat(file.fileno())) == self.file
        except FileNotFoundError:
            return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns
