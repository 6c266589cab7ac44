"""The inverse problems that were measured on a run's test simulations, each a folder.

inversions/KEY/draws.npz      ids, theta, y, draws
metrics.json   written last; holds the SHA-256 of the draws
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DamagedError
from pipeline.files import file_hash, read_arrays, read_document, write_arrays, write_document
from pipeline.run import RunDirectory

FORMAT = 1
METRICS, DRAWS = "metrics.json", "draws.npz"


@dataclass(frozen=True)
class Inversion:
    """A method on an operator, measured on test simulations.

    Arguments:
        run: the run directory.
        key: method, operator, and a hash of all that determines the result.
    """

    run: RunDirectory
    key: str

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.run.path / "inversions" / self.key

    def write(self, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Write the draws, then the metrics; return what is read again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.folder / DRAWS, arrays)
        digest = file_hash(self.folder / DRAWS)
        sealed = {"format": FORMAT, "key": self.key, **content, "draws": digest}
        write_document(self.folder / METRICS, sealed)
        return self.metrics() or {}

    def metrics(self) -> dict[str, Any] | None:
        """Return the metrics, None where there are none; a `DamagedError` unless they are of the draws beside."""
        try:
            content: dict[str, Any] = read_document(self.folder / METRICS)
        except FileNotFoundError:
            return None
        if content.get("key") != self.key:
            raise DamagedError(
                f"{self.folder / METRICS} is of {content.get('key')}, not of this inversion"
            )
        if file_hash(self.folder / DRAWS) != content.get("draws"):
            raise DamagedError(f"{self.folder / DRAWS} is not the one that was written")
        return content

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the draws and what they are compared with."""
        return read_arrays(self.folder / DRAWS)


def inversions(run: RunDirectory) -> list[Inversion]:
    """Return the inversions of a run in the order of their keys."""
    folders = sorted(path for path in run.path.glob("inversions/*/") if path.is_dir())
    return [Inversion(run, folder.name) for folder in folders]
