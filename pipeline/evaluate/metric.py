"""A metric by name, called on all test sets, and its result as JSON."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import evaluation
from pipeline.errors import UsageError
from pipeline.progress import Progress
from pipeline.stop import Stop


def metric_of(name: str) -> Callable[..., Any]:
    """Return the metric of a name; a `UsageError` where it is unknown."""
    try:
        return evaluation.load(name)
    except (LookupError, TypeError) as error:
        raise UsageError(f"evaluate.metrics: {error.args[0]}") from error


def apply(name: str, metric: Callable[..., Any], inputs: Mapping[str, Any], stop: Stop) -> Any:
    """Call a metric; a slow one shows its progress and obeys a stop."""
    if "tick" not in inspect.signature(metric).parameters:
        return metric(**inputs)
    sets = len(inputs["draws"])
    with Progress(f"evaluate {name}", sets, "test sets") as progress:

        def tick(done: int) -> None:
            stop.check("evaluate")
            progress.update(done)

        value = metric(**inputs, tick=tick)
        progress.update(sets)
    return value


def as_json(value: Any) -> dict[str, Any]:
    """Return the result of a metric as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        fields = {"mean": value}
    return {
        k: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in fields.items()
    }


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of evaluated metrics with dotted names, e.g. `c2st.mean`."""
    common = ("draws", "sampling_steps", "n")
    return {
        f"{name}.{key}": float(value)
        for name, record in metrics.items()
        for key, value in record.items()
        if key not in common and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
