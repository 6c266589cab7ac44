"""How good a posterior is: metrics by name, the journal, plots, and the way into MLflow.

A metric is a function over all test sets. The names of its arguments say what it needs; whoever
evaluates hands over these arrays:

    theta       (B, D)      true parameters of the test sets
    draws       (B, n, D)   posterior draws for each test set
    references  (B, n, D)   draws of the reference posterior for each test set
    prior       (m, D)      draws of the prior
    seconds     (k,)        measured wall seconds per 1000 draws

A slow metric may also take `tick=None`, a function that it calls with the number of finished test
sets. It returns a frozen dataclass whose fields are numbers, strings or arrays, among them
`definition`, the sentence that stands beside the number.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

GROUP = "sbiflow.metrics"  # entry points of outsiders
INPUTS = ("theta", "draws", "references", "prior", "seconds")

TABLE = {
    "c2st": "evaluation.c2st:c2st_sets",
    "c2st_paper": "evaluation.c2st:c2st_paper_sets",
    "ece": "evaluation.calibration:ece",
    "mae": "evaluation.rmse:mae",
    "mmd": "evaluation.mmd:mmd_sets",
    "mmd_paper": "evaluation.mmd:mmd_paper_sets",
    "nrmse": "evaluation.rmse:nrmse",
    "r2": "evaluation.rmse:r2",
    "rmse": "evaluation.rmse:rmse",
    "rmse_paper": "evaluation.rmse:rmse_paper",
    "sbc": "evaluation.calibration:sbc",
    "seconds": "evaluation.timing:seconds_per_1000",
}


def available() -> list[str]:
    """Return the names of all metrics, built in or installed."""
    return sorted({*TABLE, *(point.name for point in entry_points(group=GROUP))})


def load(name: str) -> Callable[..., Any]:
    """Return the metric of that name: built in, an entry point, or `module:attribute`.

    Raises:
        LookupError: unknown name, with the close ones.
        TypeError: it is no function of the arrays listed in this package's docstring.
    """
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    target = TABLE.get(name) or installed.get(name) or (name if ":" in name else None)
    if target is None:
        close = difflib.get_close_matches(name, available(), 3)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise LookupError(f"unknown metric {name!r}; {hint}valid: {', '.join(available())}")
    module, _, attribute = target.partition(":")
    try:
        metric: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"metric {name!r}: cannot load {target}: {error}") from error
    needs(metric)
    return metric


def needs(metric: Callable[..., Any]) -> tuple[str, ...]:
    """Return which arrays a metric wants, by the names of its arguments without a default."""
    required = tuple(
        parameter.name
        for parameter in inspect.signature(metric).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    )
    unknown = [name for name in required if name not in INPUTS]
    if unknown:
        raise TypeError(f"metric {metric!r} wants {unknown}; it can have {', '.join(INPUTS)}")
    return required
