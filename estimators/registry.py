"""The table of estimators: a name becomes a class, a class and its arguments become an estimator.

A name is one of the table below, `package.module:attribute`, or an entry point of the group
`sbiflow.estimators`. Nothing is imported before a name is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimators.estimator import Estimator, Problem

GROUP = "sbiflow.estimators"

TABLE = {
    "acf": "estimators.acf:ACF",
    "cmpe": "estimators.cmpe:CMPE",
    "cmpe_distilled": "estimators.cmpe_distilled:CMPEDistilled",
    "cmpe_paper": "estimators.cmpe_paper:PaperCMPE",
    "ensemble": "estimators.ensemble:Ensemble",
    "fmpe": "estimators.fmpe:FMPE",
    "npse": "estimators.npse:NPSE",
    "nsf": "estimators.nsf:NSF",
    "nsf_autoregressive": "estimators.nsf_autoregressive:AutoregressiveNSF",
}


def available() -> list[str]:
    """Return the names of the built-in estimators and of the installed plug-ins, sorted."""
    return sorted({*TABLE, *(point.name for point in metadata.entry_points(group=GROUP))})


def resolve(name: str) -> type[Estimator]:
    """Return the class behind a name.

    Raises:
        LookupError: no estimator has this name, or the module lacks the attribute.
        TypeError: what the name leads to is no `Estimator` class.
    """
    target = TABLE.get(name)
    if target is None and ":" in name:
        target = name
    if target is None:
        points = [point for point in metadata.entry_points(group=GROUP) if point.name == name]
        if not points:
            raise LookupError(f"unknown estimator {name!r}{suggest(name, available())}")
        target = points[0].value
    return _import(name, target)


def arguments(name: str) -> dict[str, Any]:
    """Return the arguments an estimator accepts, each with its default (its configuration)."""
    parameters = inspect.signature(resolve(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check(name: str, given: Iterable[str]) -> None:
    """Raise where the name of the estimator or the name of an argument is unknown.

    Raises:
        LookupError: unknown estimator.
        TypeError: unknown argument; the message lists the valid ones.
    """
    valid = arguments(name)
    for key in given:
        if key not in valid:
            raise TypeError(
                f"estimator {name!r} has no argument {key!r}{suggest(key, sorted(valid))}"
            )


def build(name: str, problem: Problem, given: Mapping[str, Any]) -> Estimator:
    """Return a new estimator that remembers its name and arguments (an artefact holds both)."""
    check(name, given)
    estimator = resolve(name)(problem, **given)
    estimator.name = name
    estimator.arguments = dict(given)
    return estimator


def suggest(word: str, valid: list[str]) -> str:
    """Return the end of an error message: the closest valid words, then all of them."""
    close = difflib.get_close_matches(word, valid, n=3, cutoff=0.5)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return f"{question} Valid: {', '.join(valid)}"


def _import(name: str, target: str) -> type[Estimator]:
    from estimators.estimator import Estimator

    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise LookupError(f"estimator {name!r}: no module named {module_name!r}") from error
    if not hasattr(module, attribute):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v)]
        raise LookupError(
            f"estimator {name!r}: module {module_name!r} has no {attribute!r}"
            f"{suggest(attribute, sorted(classes))}"
        )
    found = getattr(module, attribute)
    if not (inspect.isclass(found) and issubclass(found, Estimator)):
        raise TypeError(f"estimator {name!r}: {target!r} is no subclass of estimators.Estimator")
    return found
