"""The work of an evaluation in blocks of test sets, each with a file of its own, in this process or in others.

Blocks and their random numbers do not depend on the number of processes, and a block that is finished is found by
a repeat: the numbers are the same for any number of workers and any history of kills.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import DamagedError
from pipeline.files import read_arrays, write_arrays
from pipeline.progress import log

SETS = 10  # test sets of a block

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class TestBlock:
    """A piece of work.

    Attributes:
        what: "drawn", "reference", or the metric that is measured on what was drawn.
        steps: sampling steps; None where the estimator has no choice.
        start: position of its first test set.
    """

    what: str
    steps: int | None
    start: int

    @property
    def rows(self) -> slice:
        """Positions of its test sets."""
        return slice(self.start, self.start + SETS)


@dataclass(frozen=True)
class Blocks:
    """The finished blocks of an evaluation.

    Arguments:
        folder: of their files.
        settings: everything that determines them, as JSON.
    """

    folder: Path
    settings: str

    def path(self, block: TestBlock) -> Path:
        """Return where a block is kept."""
        return self.folder / f"{block.what}_{block.steps}_{block.start}.npz"

    def find(self, block: TestBlock) -> Arrays | None:
        """Return the arrays of a finished block, None where there are none with equal settings."""
        try:
            arrays = read_arrays(self.path(block))
            if str(arrays.pop("settings")) == self.settings:
                return arrays
        except FileNotFoundError:
            pass
        except (DamagedError, KeyError) as error:
            log(f"evaluate: {error}; made anew")
        return None

    def keep(self, block: TestBlock, arrays: Arrays) -> None:
        """Write a finished block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.path(block), {**arrays, "settings": np.array(self.settings)})

    def remove(self) -> None:
        """Delete all blocks: what they hold is in the result."""
        shutil.rmtree(self.folder, ignore_errors=True)
