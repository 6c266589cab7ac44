"""Draws of all test sets: in the files of their blocks, or in the chunks of a Zarr array where they are large.

Large are draws of more than 512 MB in single precision. Of these, memory holds those of a block at a time, and
`draws.npz` the first of each test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DamagedError, UsageError
from pipeline.evaluate.blocks import SETS, Arrays, Blocks, TestBlock
from pipeline.progress import log
from pipeline.results import Results
from pipeline.store.chunks import ChunkedArray
from pipeline.train.setup import memory_limit

if TYPE_CHECKING:
    from xarray import Dataset

LARGE = 512 << 20  # bytes in single precision
SHARE = 0.125  # of the memory, which large draws may take where a metric needs all of them at once
SHOWN = 500, 32 << 20  # draws of a test set, and bytes of all, that are also in `draws.npz` then


@dataclass(frozen=True)
class Draws:
    """Draws that are made block by block.

    Arguments:
        blocks: where finished blocks are.
        chunks: the Zarr array of large draws.
        what: name of the blocks.
        steps: sampling steps of the blocks.
        shape: B test sets, n draws, D parameters.
        dtype: of the array.
    """

    blocks: Blocks
    chunks: ChunkedArray
    what: str
    steps: int | None
    shape: tuple[int, int, int]
    dtype: str = "float32"

    @property
    def large(self) -> bool:
        """Whether they are kept in chunks."""
        return is_large(self.shape)

    @property
    def parts(self) -> list[TestBlock]:
        """The blocks of all test sets."""
        return [TestBlock(self.what, self.steps, start) for start in range(0, self.shape[0], SETS)]

    def prepare(self) -> None:
        """Make the array of large draws, before any process writes into it."""
        if self.large:
            self.chunks.create(self.shape, SETS, self.dtype)

    def keep(self, block: TestBlock, draws: np.ndarray, more: Arrays) -> None:
        """Write the draws of a block, and what belongs to them."""
        if self.large:
            draws = draws.astype(self.dtype)
            more = more | {"digest": np.array(self.chunks.write(block.start, draws))}
            draws = draws[:, : shown(self.shape)]
        self.blocks.keep(block, more | {"draws": draws})

    def read(self, block: TestBlock) -> np.ndarray:
        """Return all draws of the test sets of a finished block.

        Raises:
            DamagedError: a chunk is not what was written; the block is forgotten, so that a repeat draws it.
        """
        own = TestBlock(self.what, self.steps, block.start)
        found = self.blocks.find(own)
        if found is None:
            raise DamagedError(f"{self.blocks.path(own)} is missing or damaged")
        if not self.large:
            return found["draws"]
        try:
            return self.chunks.read(own.start, len(found["draws"]), str(found["digest"]))
        except DamagedError:
            self.blocks.path(own).unlink(missing_ok=True)
            raise

    def joined(self) -> Arrays:
        """Return `draws` (B, k, D), all or the first of each test set, and what else the blocks hold.

        What is no array of test sets, as `seconds` and `digest`, has a value for each block.
        """
        found = [self.blocks.find(part) for part in self.parts]
        parts = [part for part in found if part is not None]
        assert len(parts) == len(found), "all blocks are finished"
        return {
            key: np.concatenate([np.atleast_1d(part[key]) for part in parts]) for key in parts[0]
        }


def is_large(shape: Sequence[int]) -> bool:
    """Return whether draws of a shape (B, n, D) are kept in chunks."""
    return 4 * math.prod(shape) > LARGE


def fits(shape: Sequence[int]) -> bool:
    """Return whether draws of a shape (B, n, D) may be in memory all at once."""
    return not is_large(shape) or 8 * math.prod(shape) <= SHARE * memory_limit()


def shown(shape: Sequence[int]) -> int:
    """Return how many large draws of each test set are also in `draws.npz`."""
    most, size = SHOWN
    return min(most, max(SETS, size // (4 * shape[0] * shape[2])))


def chunks_of(results: Results, steps: int | str | None) -> ChunkedArray:
    """Return where large draws of a training are, by their number of sampling steps."""
    return ChunkedArray(results.folder / f"evaluation/draws_{steps}.zarr")


def view(results: Results) -> Dataset:
    """Return the draws that were evaluated; large ones are read where they are asked for.

    Returns:
        `theta` (test, parameter), and `draws_STEPS` (test, draw, parameter) for each number of sampling steps,
        in natural units.

    Raises:
        UsageError: nothing is evaluated yet.
        DamagedError: a file, or later a chunk that is read, is damaged.
    """
    import xarray

    evaluated, arrays = results.evaluated(), results.draws()
    if evaluated is None or arrays is None:
        raise UsageError(f"training {results.key} is not evaluated yet: run `sbiflow evaluate`")
    axes = "test", "draw", "parameter"
    found: dict[str, Any] = {"theta": (("test", "parameter"), arrays["theta"])}
    for name in arrays:
        if name.startswith("draws_"):
            found[name] = axes, _whole(results, name.removeprefix("draws_"), arrays)
    names = {"test": arrays["ids"], "parameter": evaluated["posterior"]["names"]}
    return xarray.Dataset(found, names, {"training": results.key})


def _whole(results: Results, steps: str, arrays: Arrays) -> Any:
    """Return all draws with a number of sampling steps; large ones as a lazy array."""
    chunks = chunks_of(results, steps)
    if not chunks.path.exists():
        return arrays[f"draws_{steps}"]
    advice = f"`sbiflow evaluate -o {results.run.path}` makes it anew"
    return chunks.lazy(arrays.get(f"chunks_{steps}"), advice)


def told(error: DamagedError) -> None:
    """Say that damaged draws are made anew."""
    log(f"evaluate: {error}; drawn anew")
