"""The evaluation stage: draws for every test simulation, the reference posterior, the metrics.

All random numbers follow from `evaluate.seed`. Everything that determines the metrics is stored with them, so
that a repeat finds them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.evaluate.blocks import TestBlock
from pipeline.evaluate.metric import numbers
from pipeline.evaluate.pool import EvaluationPool
from pipeline.evaluate.simulations import TestSimulations
from pipeline.evaluate.work import QUICK, Evaluation
from pipeline.events import Recorder
from pipeline.files import write_arrays
from pipeline.progress import Progress, duration, log
from pipeline.results import DRAWS, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.usage import Usage

EVENT_SECONDS = 5.0  # between two events for the journal


def evaluate(
    config: Config,
    run: RunDirectory,
    *,
    stop: Stop,
    record: Recorder | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """Measure a trained posterior on the test simulations, or find it measured.

    Arguments:
        config: the whole configuration.
        run: the run directory.
        stop: request to leave; a repeat uses the blocks that are finished.
        record: takes the events for the journal.
        key: of the training; None is the latest.

    Returns:
        The content of `evaluation/metrics.json`, see `docs/metrics.md`.

    Raises:
        UsageError: no training, no test simulations, unknown metric or reference.
        PipelineError: the reference posterior cannot be drawn from, or a process ended without a result.
        Stopped: a stop was requested.
    """
    work = Evaluation(config, run, key or latest_training(run))
    if (known := work.finished()) is not None:
        log(f"evaluate: {work.key} is done")
        return known
    record = record or (lambda event: None)
    record({"event": "start", "training": work.key})
    began = time.monotonic()
    measured = _work(work, stop, record)
    seconds = round(time.monotonic() - began, 3)
    arrays = _arrays(work) | _observed(work.sets, work.simulator.parameter_shape)
    write_arrays(work.results.folder / DRAWS, arrays)
    result = work.results.write_evaluated(_finite(_content(work, measured) | {"seconds": seconds}))
    work.blocks.remove()
    log(f"evaluate: {work.key}, {duration(seconds)}")
    shown = {str(steps): numbers(metrics) for steps, metrics in measured.items()}
    event = {"event": "evaluated", "training": work.key}
    record({**event, "sampling_steps": shown, "seconds": seconds})
    return result


def _work(work: Evaluation, stop: Stop, record: Recorder) -> dict[int | None, dict[str, Any]]:
    """Draw and measure, in blocks where that is possible; return the metrics by sampling steps."""
    reference, steps = work.references, work.sampling_steps
    names = ["drawn", *work.dear(), *([QUICK] if work.quick() else [])]
    blocks = [work.parts(name, s) for name in names for s in steps]
    of_reference = reference.draws.parts if reference else []
    total = len(of_reference) + sum(map(len, blocks))
    work.prepare()
    with (
        Progress("evaluate", total, "blocks") as progress,
        EvaluationPool(work, work.asked.workers, stop) as workers,
    ):
        tell = _teller(work, progress, record)
        if reference is not None:
            with reference.in_turn():
                missing = reference.missing()
                workers.do(missing, tell)
                if missing:
                    reference.finish()
            for block in set(of_reference) - set(missing):
                tell(block)
        for part in blocks:
            workers.do(part, tell)
    return {s: work.measure(s, stop) for s in steps}


def _teller(work: Evaluation, progress: Progress, record: Recorder) -> Callable[[TestBlock], None]:
    """Return a function that tells of every block that is finished."""
    told, usage, done = time.monotonic(), Usage(), 0

    def tell(block: TestBlock) -> None:
        nonlocal told, done
        done += 1
        progress.update(done, "drawing" if block.what == "drawn" else block.what)
        if time.monotonic() - told > EVENT_SECONDS:
            told = time.monotonic()
            counts = {"done": done, "total": progress.total, "usage": usage()}
            record({"event": "evaluating", "training": work.key, **counts})

    return tell


def _arrays(work: Evaluation) -> dict[str, np.ndarray]:
    """Return what is written to `draws.npz`; of large draws the first, and the digests of all in chunks."""
    arrays = {"ids": work.sets.ids, "theta": work.sets.theta}
    for steps in work.sampling_steps:
        held = work.draws(steps).joined()
        arrays[f"draws_{steps}"] = held["draws"]
        if "digest" in held:
            arrays[f"chunks_{steps}"] = held["digest"]
    return arrays if work.references is None else arrays | {"references": work.references.shown}


def _content(work: Evaluation, measured: Mapping[int | None, dict[str, Any]]) -> dict[str, Any]:
    """Return what is written to `metrics.json` beside the time; the first of `measured` is the headline."""
    (_, headline), *others = measured.items()
    posterior, config = work.posterior, work.config
    provenance = posterior.provenance
    return {
        "metrics": headline,
        "sweep": [{"sampling_steps": steps, "metrics": metrics} for steps, metrics in others],
        "failed_share": _shares(config, work.run, provenance.get("budget", config.budget)),
        "posterior": {
            "key": work.key,
            "estimator": posterior.estimator,
            "names": list(posterior.names),
            "scales": list(work.simulator.prior.scales),
            "shape": list(work.simulator.parameter_shape),
            "budget": provenance.get("budget"),
            "digest": provenance.get("store_digest"),
        },
        "settings": work.settings,
    }


def _observed(sets: TestSimulations, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the observations as `observed` where parameters and a single output are images."""
    outputs = list(sets.inputs.values())
    images = len(shape) == 2 and len(outputs) == 1 and outputs[0].ndim == 3
    return {"observed": np.asarray(outputs[0], np.float32)} if images else {}


def _finite(value: Any) -> Any:
    """Replace NaN and Inf, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shares(config: Config, run: RunDirectory, budget: int) -> dict[str, Any]:
    """Return for each stream how many simulations are not ok, and are left out of the metrics."""
    shares = {}
    for stream, size in (config.budgets | {"train": budget}).items():
        counts = Store.open(run.store(stream)).counts(size)
        bad = counts["failed"] + counts["timeout"] + counts["invalid"]
        shares[stream] = {**counts, "share": bad / max(counts["done"], 1)}
    return shares
