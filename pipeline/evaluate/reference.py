"""Draws of the reference posterior for the test simulations, a block at a time.

They follow from the test simulations and a seed alone. They are stored in `RUN/references` and used for every
training of a run:

    NAME-KEY.npz     ids, references, description; of large ones the first of each test set, and `chunks`,
                     the digests of the blocks
    NAME-KEY.zarr    all draws, where they are large
    NAME-KEY/        finished blocks, until all are
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.score import Tick
from pipeline.config import Config
from pipeline.errors import DamagedError, PipelineError
from pipeline.evaluate.blocks import SETS, Arrays, Blocks, TestBlock
from pipeline.evaluate.draws import Draws
from pipeline.evaluate.simulations import TestSimulations
from pipeline.files import read_arrays, write_arrays
from pipeline.locks import lock
from pipeline.progress import log
from pipeline.results import advising
from pipeline.run import RunDirectory
from pipeline.store.chunks import ChunkedArray
from pipeline.streams import RunStream

WHAT = "reference"  # name of the blocks


@dataclass(frozen=True)
class Reference:
    """The reference posterior of an evaluation.

    Arguments:
        config: the whole configuration.
        run: the run directory.
        name: which reference posterior.
        test_digest: of the test simulations.
        sets: the test simulations.
    """

    config: Config
    run: RunDirectory
    name: str
    test_digest: str
    sets: TestSimulations

    @property
    def description(self) -> str:
        """Everything that determines the draws beside the test simulations, as JSON."""
        simulator, asked = self.config.simulator, self.config.evaluate
        source = [simulator.name, self.config.prior, simulator.arguments]
        return json.dumps([*source, self.name, asked.draws, asked.seed])

    @cached_property
    def path(self) -> Path:
        """The file that is there when all are drawn."""
        key = hashlib.sha256((self.description + self.test_digest).encode()).hexdigest()[:16]
        return self.run.path / "references" / f"{self.name}-{key}.npz"

    @cached_property
    def draws(self) -> Draws:
        """Where they are kept while they are drawn."""
        blocks = Blocks(self.path.with_suffix(""), json.dumps([self.description, self.test_digest]))
        shape = *self.sets.theta.shape[:1], self.config.evaluate.draws, self.sets.theta.shape[1]
        chunks = ChunkedArray(self.path.with_suffix(".zarr"))
        return Draws(blocks, chunks, WHAT, None, shape, "float64")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one process draw at a time: cases of a study share the folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            lock(handle)
            yield
        finally:
            os.close(handle)

    def missing(self) -> list[TestBlock]:
        """Return the blocks to draw: those that are not stored, or damaged."""
        held = self._held()
        if held is None:
            self.draws.prepare()
            return self.draws.parts
        if "chunks" not in held:
            return []
        bad = self.draws.chunks.damaged(held["chunks"].tolist())
        if bad:
            log(f"evaluate: {self.draws.chunks.path} is damaged; {len(bad)} chunks are drawn anew")
        return [self.draws.parts[number] for number in bad]

    def do(self, block: TestBlock, tick: Tick | None = None) -> None:
        """Draw for the test sets of a block."""
        rows: list[np.ndarray] = []
        for i, x in zip(self.sets.ids[block.rows], self.sets.x[block.rows], strict=True):
            if tick:
                tick(len(rows))
            rows.append(_draw(self.description, int(i), x))
        self.draws.keep(block, np.stack(rows), {})

    def finish(self) -> None:
        """Write the file of all, whose missing blocks are finished."""
        arrays = self._held() or self._joined()
        for number, part in enumerate(self.draws.parts if "chunks" in arrays else ()):
            if (found := self.draws.blocks.find(part)) is not None:
                arrays["chunks"][number] = found["digest"]
        write_arrays(self.path, arrays)
        self.draws.blocks.remove()

    def _joined(self) -> Arrays:
        held, description = self.draws.joined(), np.array(self.description)
        chunks = {"chunks": held["digest"]} if self.draws.large else {}
        return {
            "ids": self.sets.ids,
            "references": held["draws"],
            "description": description,
            **chunks,
        }

    def read(self, block: TestBlock) -> np.ndarray:
        """Return the draws for the test sets of a block, shape (b, n, D).

        Raises:
            DamagedError: they are not what was written.
        """
        if "chunks" not in self._stored:
            return self.shown[block.rows]
        digest = str(self._stored["chunks"][block.start // SETS])
        count = len(self.sets.ids[block.rows])
        with advising(self.run, "evaluate"):
            return self.draws.chunks.read(block.start, count, digest)

    @property
    def shown(self) -> np.ndarray:
        """All draws, or the first of each test set where they are in chunks."""
        return self._stored["references"]

    @cached_property
    def _stored(self) -> Arrays:
        found = self._held()
        if found is None:
            raise DamagedError(f"{self.path} is missing: `sbiflow evaluate` makes it")
        return found

    def _held(self) -> Arrays | None:
        """Return what is stored; None if there is nothing or it is damaged."""
        (sets, n, _), ids = self.draws.shape, self.sets.ids
        try:
            arrays = read_arrays(self.path)
            whole = arrays["references"].shape[:2] == (sets, n)
            if not (whole or "chunks" in arrays) or not np.array_equal(arrays["ids"], ids):
                raise DamagedError(f"{self.path} holds other draws than its name says")
            if str(arrays.get("description", self.description)) != self.description:
                raise DamagedError(f"{self.path} holds other draws than its name says")
        except FileNotFoundError:
            return None
        except (DamagedError, KeyError) as error:
            log(f"evaluate: {error}; draws anew")
            return None
        return arrays


@lru_cache(maxsize=1)
def _simulator(name: str, prior: str, arguments: str) -> Any:
    import simulators

    return simulators.load(name, prior=json.loads(prior), **json.loads(arguments))


def _draw(description: str, i: int, x: dict[str, np.ndarray]) -> np.ndarray:
    """Draw for test simulation `i`; the random numbers follow from (seed, i)."""
    source, prior, arguments, name, n, seed = json.loads(description)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RunStream.REFERENCE, i)))
    try:
        simulator = _simulator(source, json.dumps(prior), json.dumps(arguments))
        draws = np.asarray(simulator.reference(x, n, rng, name=name), dtype=np.float64)
    except ValueError as error:
        raise PipelineError(f"reference {name!r} for test simulation {i}: {error}") from error
    if not np.isfinite(draws).all():
        raise PipelineError(f"reference {name!r} for test simulation {i} gave NaN or infinity")
    return draws
