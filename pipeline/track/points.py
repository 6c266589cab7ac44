"""The metrics of MLflow runs.

MLflow sorts charts by the first part of a name, so that parts are in order of use:

loss/              of training and validation
quality/           what the evaluation measured
quality_by_parameter/
rate/              learning rate, steps per second, norm of the gradient
simulate/          outcomes and speed of each stream
system/            cores and memory in use
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.tracking.record import Data, Point
from pipeline.evaluate.metric import numbers
from pipeline.report.contents import TrainingContents
from pipeline.track.outcome import Event, milliseconds

RATES = ("learning_rate", "steps_per_second", "gradient_norm")
SIMULATED = ("rate", "seconds", "busy", "workers")
MOST_PARAMETERS = 100  # of which each has metrics of its own


def simulated(events: Sequence[Event]) -> Iterator[Point]:
    """Yield the counts and the speed of the simulations; a step is a simulation."""
    for event in events:
        if event.get("stage") != "simulate" or "stream" not in event:
            continue
        counts = event.get("counts", {})
        step = int(counts.get("done", event.get("done", 0)))
        values = {name: event.get(name) for name in ("done", "failed", *SIMULATED)} | counts
        time = milliseconds(event)
        yield from _points(f"simulate/{event['stream']}", values, step, time)
        yield from _points("system", event.get("usage", {}), step, time)


def trained(own: Sequence[Event], kept: Sequence[Event]) -> Iterator[Point]:
    """Yield losses, rates and the use of the machine; a step is an optimiser step."""
    told = [e for e in own if e.get("event") == "train"]
    steps: dict[int, Event] = {int(row["step"]): row for row in [*told, *kept]}
    start = milliseconds(told[0]) - _after(told[0]) if told else 0
    for step, row in sorted(steps.items()):
        losses = {k: row.get(k) for k in ("train", "validation")}
        yield from _points("loss", losses, step, start + _after(row))
        rate = {"learning_rate": row.get("learning_rate")}
        yield from _points("rate", rate, step, start + _after(row))
    for event in own:
        if event.get("event") == "pace" and event["step"] not in steps:
            step, time = int(event["step"]), milliseconds(event)
            yield from _points("loss", {"train": event.get("train")}, step, time)
            yield from _points("rate", {k: event.get(k) for k in RATES}, step, time)
            yield from _points("system", event.get("usage", {}), step, time)


def evaluating(own: Sequence[Event]) -> Iterator[Point]:
    """Yield how much of the evaluation is done; a step is a block of test sets."""
    for event in own:
        if event.get("event") == "evaluating":
            step, time = int(event["done"]), milliseconds(event)
            yield from _points("progress", {"blocks": step}, step, time)
            yield from _points("system", event.get("usage", {}), step, time)


def measured(
    own: Sequence[Event], left: TrainingContents, data: Data | None = None
) -> Iterator[Point]:
    """Yield what the evaluation measured; a step is a sampling step."""
    for record, step, time in _measured(own, left):
        for name, value in numbers(record).items():
            yield from _points("quality", {name: value}, step, time, data)


def by_parameter(own: Sequence[Event], left: TrainingContents) -> Iterator[Point]:
    """Yield the metrics of each parameter."""
    names = left.evaluated.get("posterior", {}).get("names", ())
    if len(names) > MOST_PARAMETERS:
        return
    for record, step, time in _measured(own, left):
        for metric, values in record.items():
            each = values.get("per_parameter") or ()
            named = {f"{metric}/{n}": v for n, v in zip(names, each, strict=False)}
            yield from _points("quality_by_parameter", named, step, time)


def inverted(events: Sequence[Event], key: str) -> Iterator[Point]:
    """Yield the numbers of inverse problems with a training as their prior."""
    for event in events:
        if event.get("event") == "inverted" and event.get("training") == key:
            prefix = f"invert/{event['inversion']}"
            yield from _points(prefix, event["metrics"], 0, milliseconds(event))


def approximated(own: Sequence[Event], done: Mapping[str, Any]) -> Iterator[Point]:
    """Yield the simulations and the acceptance of ABC; a step is a generation, 0 its calibration."""
    for event in own:
        if event.get("event") in ("generation", "simulating"):
            names = ("simulations", "accepted", "acceptance", "farthest")
            values = {name: event.get(name) for name in names}
            yield from _points("abc", values, event["generation"] + 1, milliseconds(event))
    for generation, epsilon in enumerate(done.get("epsilon", ()), 1):
        yield from _points("abc", {"epsilon": epsilon}, generation, milliseconds(own[-1]))


def _measured(
    own: Sequence[Event], left: TrainingContents
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield the metrics of each number of sampling steps, that number, and the time."""
    if not left.evaluated:
        return
    told = [e for e in own if e.get("event") == "evaluated"]
    time = milliseconds(told[-1]) if told else 0
    for one in [{"metrics": left.evaluated["metrics"]}, *left.evaluated["sweep"]]:
        taken = {m.get("sampling_steps") for m in one["metrics"].values()} - {None}
        yield one["metrics"], int(max(taken, default=0)), time


def _points(
    prefix: str, values: Mapping[str, Any], step: int, time: int, data: Data | None = None
) -> Iterator[Point]:
    for name, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            yield Point(f"{prefix}/{name}", float(value), step, time, data)


def _after(row: Event) -> int:
    return int(1000 * row.get("seconds", 0))
