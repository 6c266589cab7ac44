"""How good a posterior is: metrics by name, the journal of a run, plots, and the upload to MLflow.

A metric is a function of all test sets. Its required arguments name the arrays that it needs:

    theta       (B, D)      true parameters of the test sets
    draws       (B, n, D)   posterior draws for each test set
    references  (B, n, D)   draws of the reference posterior for each test set
    prior       (m, D)      draws of the prior
    x           (B, F)      observations as the estimator takes them, all outputs side by side
    seconds     (k,)        measured wall seconds per 1000 draws
    log_prob    (B,)        log-density of the posterior at the true parameters, where it has one
    log_prob_draws  (B, k)  log-density at some of the draws

A slow metric may also take `tick=None`, a function that it calls with the number of finished test sets, and
`cache=None`, a folder for what it can use again. It returns a frozen dataclass whose fields are numbers, strings,
tuples of strings or arrays; the field `definition` is the sentence that stands beside the number.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

GROUP = "sbiflow.metrics"  # entry points of other packages
INPUTS = ("theta", "draws", "references", "prior", "x", "seconds", "log_prob", "log_prob_draws")

TABLE = {
    "c2st": "evaluation.c2st:c2st_sets",
    "c2st_forest": "evaluation.c2st:c2st_forest_sets",
    "c2st_local": "evaluation.local_c2st:c2st_local",
    "c2st_pairs": "evaluation.c2st_pairs:c2st_pairs",
    "c2st_paper": "evaluation.c2st:c2st_paper_sets",
    "contraction": "evaluation.contraction:contraction",
    "coverage": "evaluation.coverage:coverage",
    "coverage_density": "evaluation.coverage:coverage_density",
    "coverage_joint": "evaluation.coverage:coverage_joint",
    "coverage_pixels": "evaluation.image_scores:coverage_pixels",
    "crps": "evaluation.proper_scores:crps",
    "ece": "evaluation.calibration:ece",
    "energy": "evaluation.proper_scores:energy",
    "frechet_images": "evaluation.population:frechet_images",
    "kernel_images": "evaluation.population:kernel_images",
    "log_prob": "evaluation.log_prob:log_prob_truth",
    "mae": "evaluation.rmse:mae",
    "mmd": "evaluation.mmd:mmd_sets",
    "mmd_images": "evaluation.population:mmd_images",
    "mmd_paper": "evaluation.mmd:mmd_paper_sets",
    "nrmse": "evaluation.rmse:nrmse",
    "r2": "evaluation.rmse:r2",
    "rmse": "evaluation.rmse:rmse",
    "rmse_image": "evaluation.image_scores:rmse_image",
    "rmse_paper": "evaluation.rmse:rmse_paper",
    "sbc": "evaluation.calibration:sbc",
    "sbc_image": "evaluation.image_scores:sbc_image",
    "seconds": "evaluation.timing:seconds_per_1000",
    "tarp": "evaluation.coverage:tarp",
    "tarp_posterior": "evaluation.coverage:tarp_posterior",
    "z_score": "evaluation.contraction:z_score",
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
    """Return the arrays that a metric needs: the names of its arguments without a default.

    Raises:
        TypeError: an argument is none of the arrays of this package's docstring.
    """
    required = tuple(
        parameter.name
        for parameter in inspect.signature(metric).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    )
    unknown = [name for name in required if name not in INPUTS]
    if unknown:
        raise TypeError(f"metric {metric!r} wants {unknown}; it can have {', '.join(INPUTS)}")
    return required
