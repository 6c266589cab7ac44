"""The result of a finished training, as `done.json` holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedError
from pipeline.results import DONE, Results
from pipeline.train.loop import Loop
from pipeline.train.row_weights import effective_share
from pipeline.train.setup import Training


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        key: name of the training.
        directory: its folder.
        steps: optimiser steps taken.
        best_validation_loss: the lowest of the last phase.
        seconds: wall seconds of training.
        store_digest: of the training simulations.
        train_rows, validation_rows: numbers of rows.
        kept_step: step of the weights, where they are not those of the end.
        minima: phases that overfit: phase, step, loss, end.
        effective_share: of rows weighted by the prior; None for equal weights and for those by proposals.
    """

    key: str
    directory: Path
    steps: int
    best_validation_loss: float | None
    seconds: float
    store_digest: str
    train_rows: int
    validation_rows: int
    kept_step: int | None = None
    minima: tuple[dict[str, Any], ...] = ()
    effective_share: float | None = None

    @classmethod
    def of(cls, training: Training, loop: Loop) -> TrainResult:
        """Return the result of a loop that has finished."""
        return cls(
            key=training.key,
            directory=training.directory,
            steps=loop.step,
            best_validation_loss=loop.best_loss,
            seconds=round(loop.seconds, 3),
            store_digest=training.digest,
            train_rows=training.table.train_rows,
            validation_rows=training.table.validation_rows,
            kept_step=loop.kept_step,
            minima=tuple(asdict(minimum) for minimum in loop.minima),
            effective_share=(
                None
                if training.weights is None or training.proposed
                else effective_share(training.weights)
            ),
        )

    @classmethod
    def read(cls, results: Results) -> TrainResult | None:
        """Return the result of a finished training, None if it is not finished.

        Raises:
            DamagedError: something that it left is damaged.
        """
        values = results.done()
        try:
            return None if values is None else cls(**values, directory=results.folder)
        except TypeError as error:
            raise DamagedError(f"{results.folder / DONE} is damaged: {error}") from error

    def write(self, results: Results) -> None:
        """Mark the training as finished."""
        values = asdict(self)
        del values["directory"]
        results.write_done(values)
