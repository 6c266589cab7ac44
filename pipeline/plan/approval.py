"""The first outputs of the simulation stage, tried with the estimator before the others are simulated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.plan.noise import observation_of
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Outcome, Rows
from pipeline.store.observation import without_row


def approve(config: Config, spec: SimulationSpec, rows: Rows) -> None:
    """Build the estimator on outputs as the simulator gives them, and let it learn and draw once.

    Arguments:
        rows: at least one that has outputs.

    Raises:
        UsageError: the configured estimator cannot take them.
    """
    from pipeline.train.trial import try_estimator

    observation = observation_of(spec)
    if observation is None:
        x = without_row(rows.x)
    else:
        rows = rows.take(np.flatnonzero(rows.outcome == Outcome.OK))
        if not len(rows):
            return
        x = observation(rows.x, rows.ids)
    try_estimator(config, spec.simulator.prior, x, rows.lengths)


def approval(
    config: Config, run: RunDirectory, trains: bool
) -> Callable[[SimulationSpec, Rows], None]:
    """Return what looks at the first outputs for the simulation stage, once.

    Arguments:
        trains: training follows, here or in a later job: outputs it cannot take are refused, else said.
    """
    trains = trains or (run.path / "jobs.json").exists()
    seen: list[int] = []

    def look(spec: SimulationSpec, rows: Rows) -> None:
        if seen:
            return
        seen.append(len(rows))
        try:
            approve(config, spec, rows)
        except UsageError as error:
            if trains:
                raise
            log(f"simulate: these outputs cannot be trained on as configured: {error}")

    return look
