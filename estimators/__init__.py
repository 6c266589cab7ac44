"""Posterior estimators: modules with a loss, whose `posterior()` draws and gives densities.

    estimator = estimators.create("cmpe", theta, x, low=low, high=high)
    estimator.loss(theta[batch], x[batch], progress).backward()
    estimators.save("posterior", estimator, provenance={})
    draws = estimators.load("posterior").sample(x_observed, 1000)

Names and arguments of all estimators are known without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimators import automatic
from estimators.checks import renamed
from estimators.registry import arguments, available, check, current

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from estimators.description import ArtefactError as ArtefactError
    from estimators.distilled_density import distil as distil
    from estimators.estimator import Estimator as Estimator
    from estimators.held_out import recalibrate as recalibrate
    from estimators.passes import best_times as best_times
    from estimators.posterior import Posterior as Posterior
    from estimators.problem import InferenceProblem as InferenceProblem
    from estimators.training_range import OutOfRangeWarning as OutOfRangeWarning

__all__ = [
    "ArtefactError",
    "Estimator",
    "InferenceProblem",
    "OutOfRangeWarning",
    "Posterior",
    "arguments",
    "available",
    "best_times",
    "check",
    "create",
    "current",
    "distil",
    "load",
    "recalibrate",
    "save",
]

_LAZY = {
    "ArtefactError": "estimators.description",
    "Estimator": "estimators.estimator",
    "Posterior": "estimators.posterior",
    "InferenceProblem": "estimators.problem",
    "OutOfRangeWarning": "estimators.training_range",
    "best_times": "estimators.passes",
    "distil": "estimators.distilled_density",
    "recalibrate": "estimators.held_out",
}


def __getattr__(name: str) -> Any:
    # The names of the estimators must be known without the price of importing torch.
    name = renamed("Problem", "InferenceProblem", "InferenceProblem") if name == "Problem" else name
    if name not in _LAZY:
        raise AttributeError(f"module 'estimators' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def create(
    name: str,
    theta: ArrayLike,
    x: Mapping[str, ArrayLike],
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    scales: Sequence[str] | None = None,
    preprocessing: str = "none",
    standardisation: str = "moments",
    parameter_shape: Sequence[int] | None = None,
    grouping: str | Mapping[str, Sequence[str]] = "array",
    kinds: Sequence[str] | None = None,
    simplexes: Sequence[Sequence[int]] = (),
    **arguments: Any,
) -> Estimator:
    """Return a new estimator, shaped and standardised by training rows.

    Arguments:
        name: one of `available()`, `package.module:attribute`, or an entry point; `auto` chooses by shapes,
            see `estimators.automatic`.
        theta: parameters, shape (n, D), natural units.
        x: the simulator's outputs, each of shape (n, ...).
        low, high: bounds of the prior, shape (D,); -inf and inf where there is none.
        names: names of the D parameters.
        scales: linear or log, of each parameter: the scale on which it is inferred; none: linear.
        preprocessing: what is done with x first, see `estimators.preprocessing`.
        standardisation: of parameters and outputs by the training rows: moments (mean and standard
            deviation), or robust (median and central 68 %) where outliers would dominate the standard deviation.
        parameter_shape: shape of the parameters as an array, of product D; none: (D,).
        grouping: what shares one mean and scale: array (all parameters of an image, and all elements of an
            image among the outputs that have no network of their own), element (nothing), or names of
            parameters by name of their group.
        kinds: continuous, integer or category, of each parameter; none: continuous. The values of the others are
            the whole numbers from low to high.
        simplexes: columns of parameters that are positive and add up to one, for each group of them.
        arguments: the estimator's own settings, see `estimators.arguments(name)`.

    Raises:
        LookupError: unknown estimator, preprocessing or standardisation.
        TypeError: unknown argument.
        ValueError: an argument or the data are out of range.
    """
    from estimators.problem import InferenceProblem
    from estimators.registry import build
    from estimators.transform import standardise_by

    problem, theta, x = InferenceProblem.of(
        theta,
        x,
        low=low,
        high=high,
        names=names,
        scales=scales,
        preprocessing=preprocessing,
        parameter_shape=parameter_shape,
        grouping=grouping,
        kinds=kinds,
        simplexes=simplexes,
    )
    if name == automatic.NAME:
        name, arguments = automatic.CHOSEN, automatic.chosen(problem, arguments)
    estimator = build(name, problem, arguments)
    standardise_by(estimator, standardisation, grouped=grouping != "element")
    estimator.standardise(theta, x)
    return estimator


def save(path: str | Path, estimator: Estimator, provenance: Mapping[str, Any]) -> None:
    """Write an estimator's weights and description into the folder `path`, wholly or not at all."""
    from estimators import artefact

    artefact.save(Path(path), estimator, provenance)


def load(path: str | Path, device: str = "cpu") -> Posterior:
    """Return the posterior that was saved in the folder `path`.

    Raises:
        ArtefactError: no artefact there, a damaged one, or one of a newer format.
    """
    from estimators import artefact

    return artefact.load(Path(path), device)
