"""What a study would cost, before anything is spent: trainings, core-hours, bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.plan.noise import observation_of
from pipeline.plan.stage import probe
from pipeline.simulate.setup import spec_of
from pipeline.store import Outcome, Rows
from pipeline.store.observation import without_row
from pipeline.study.case import StudyCase, steps_of
from pipeline.study.schema import Study
from pipeline.study.stage import prepare

TRIES = 8  # simulations until one is ok


def forecast(study: Study, folder: Path, words: Iterable[str] = ()) -> dict[str, Any]:
    """Say what `sbiflow study` would do, from rates measured here. Writes nothing.

    Returns:
        `cases`, `complete`, `trainings` (to do), `simulations` (new), `simulation_core_hours`,
        `training_core_hours`, `steps`, `bytes`, `parallel`, `wall_seconds` and `rates`: milliseconds of a step by
        the settings that it depends on, with `from`, "trainings" of this folder or "measured".

    Raises:
        UsageError: the study cannot be.
    """
    if study.search:
        raise UsageError(
            "--dry-run: what a search trains follows from its trials; give axes or cases"
        )
    shared = prepare(study, folder, words)
    cases = [case for one in shared for case in one.cases]
    open_ = [case for case in cases if case.finished() is None]
    new = {one.name: sum(one.missing().values()) for one in shared}
    probes = {one.name: probe(one.config) for one in shared if new[one.name]}
    simulating = sum(new[name] * found.seconds for name, found in probes.items())
    rates = _rates(cases, open_)
    steps = {case.name: steps_of(case.config) for case in open_}
    training = sum(steps[case.name] * rates[_work(case.config)]["ms"] / 1000 for case in open_)
    cores = len(os.sched_getaffinity(0))
    threads = max((case.config.train.threads for case in open_), default=1)
    parallel = max(1, min(study.parallel or cores // threads, len(open_) or 1))
    return {
        "cases": len(cases),
        "complete": len(cases) - len(open_),
        "trainings": len(open_),
        "simulations": sum(new.values()),
        "simulation_core_hours": simulating / 3600,
        "training_core_hours": training * threads / 3600,
        "steps": sum(steps.values()),
        "bytes": sum(new[name] * found.row_bytes for name, found in probes.items()) + _draws(open_),
        "parallel": parallel,
        "wall_seconds": simulating / cores + training / parallel,
        "rates": list(rates.values()),
    }


def _draws(cases: Sequence[StudyCase]) -> int:
    """Return about how many bytes the evaluations of cases take."""
    from pipeline.config import simulator_of

    total = 0
    for case in cases:
        evaluate = case.config.evaluate
        size = 4 * case.config.test * evaluate.draws * len(simulator_of(case.config).prior.names)
        total += size * (len(evaluate.all_sampling_steps) + 1)
    return total


def _work(config: Config) -> str:
    """Return what the seconds of an optimiser step depend on, as text."""
    values = config.plain()
    train = {
        key: values["train"][key] for key in ("batch_size", "threads", "amp", "compile", "gpu")
    }
    return json.dumps([values["simulator"], values["estimator"], train], sort_keys=True)


def _rates(cases: Sequence[StudyCase], open_: Sequence[StudyCase]) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of a step: of finished trainings, or measured now."""
    told: dict[str, list[float]] = {}
    for case in cases:
        if (results := case.finished()) is not None and (done := results.done()):
            told.setdefault(_work(case.config), []).append(1000 * done["seconds"] / done["steps"])
    rates: dict[str, dict[str, Any]] = {}
    for case in open_:
        work = _work(case.config)
        if work in rates:
            continue
        known = told.get(work)
        rates[work] = {
            "estimator": case.config.estimator.name,
            "batch_size": case.config.train.batch_size,
            "ms": float(np.mean(known)) if known else 1000 * measured_step(case.config),
            "from": "trainings" if known else "measured",
        }
    return rates


def measured_step(config: Config) -> float:
    """Return the seconds of an optimiser step on outputs of a simulation that is run for it.

    Raises:
        UsageError: no simulation is ok.
    """
    from pipeline.train.rate import seconds_per_step

    spec = spec_of(config, "train")
    for number in range(TRIES):
        rows = spec.run(np.array([number]))
        if rows.outcome[0] == Outcome.OK:
            return seconds_per_step(
                config, spec.simulator.prior, _observed(spec, rows), rows.lengths
            )
    raise UsageError(f"simulator {config.simulator.name!r}: none of {TRIES} simulations is ok")


def _observed(spec: Any, rows: Rows) -> dict[str, np.ndarray]:
    observation = observation_of(spec)
    if observation is None:
        return without_row(rows.x)
    return dict(observation(rows.x, rows.ids))
