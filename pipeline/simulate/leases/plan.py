"""The plan of a shared budget: which ids are simulated, in which blocks; the same for all processes."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.preflight import CodeFingerprint, differences, fingerprint
from pipeline.errors import PipelineError
from pipeline.files import read_document, seal, write_whole
from pipeline.simulate.actor import PACKAGES
from pipeline.store import Outcome
from pipeline.store.ranges import Ranges

DISTRIBUTIONS = ("numpy", "zarr")


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """The ids of a shared budget, cut into blocks.

    Attributes:
        ids: all ids that are simulated.
        edges: position among the ids where each block begins, (blocks + 1,).
        again: outcomes whose rows are simulated again; their ids are among `ids`.
        file: identifies the plan's file, so that it is not taken for a later one of the same name.
    """

    ids: Ranges
    edges: np.ndarray
    again: tuple[Outcome, ...] = ()
    file: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, ids: Ranges, key_size: int, blocks: int, again: tuple[Outcome, ...] = ()
    ) -> BlockPlan:
        """Cut ids into at most so many blocks; ids that share a key, `id // key_size`, stay together."""
        keys = ids.keys(key_size)
        parts = np.linspace(0, keys, min(blocks, keys) + 1).astype(int)
        return cls(ids, ids.key_positions(key_size, parts), again)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def block(self, number: int) -> np.ndarray:
        """Return the ids (m,) of a block."""
        return self.ids.ids(int(self.edges[number]), int(self.edges[number + 1]))

    def blocks_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of the block (m,) that each id is in."""
        return np.searchsorted(self.edges, self.ids.positions(ids), side="right") - 1

    def write(self, path: Path, source_digest: str) -> None:
        """Write the plan, with the code of this process and the digest of the simulator's source."""
        ranges = np.stack([self.ids.first, self.ids.first + self.ids.count], axis=1)
        content = {
            "format": 1,
            "ids": ranges.tolist(),
            "edges": self.edges.tolist(),
            "again": [outcome.name for outcome in self.again],
            "source_digest": source_digest,
            "code": asdict(fingerprint(PACKAGES, DISTRIBUTIONS)),
        }
        write_whole(path, seal(content))

    @classmethod
    def read(cls, path: Path, source_digest: str) -> BlockPlan:
        """Read a plan made by the same code.

        Raises:
            FileNotFoundError: there is no plan.
            DamagedError: the file is damaged.
            PipelineError: this process runs other code.
        """
        with open(
            path, "rb"
        ) as file:  # if it is replaced before it is read, this plan is not current
            identity = _identity(os.fstat(file.fileno()))
        values: dict[str, Any] = read_document(path)
        different = differences(
            CodeFingerprint(**values["code"]), fingerprint(PACKAGES, DISTRIBUTIONS, loaded=True)
        )
        if values["source_digest"] != source_digest:
            different.append("the simulator's source differs")
        if different:
            raise PipelineError(
                f"this process runs other code than the one that made {path}: {'; '.join(different)}; "
                f"if that is intended, delete {path.parent} once no process uses it"
            )
        first, stop = np.array(values["ids"], np.int64).reshape(-1, 2).T
        again = tuple(Outcome[name] for name in values["again"])
        return cls(Ranges(first, stop - first), np.array(values["edges"]), again, identity)

    def is_in(self, path: Path) -> bool:
        """Whether this plan was read from the file that is at `path` now."""
        try:
            with open(path, "rb") as file:  # opening asks the server, not a cache
                return _identity(os.fstat(file.fileno())) == self.file
        except FileNotFoundError:
            return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns
