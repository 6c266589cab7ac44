"""The built-in estimators by name, and how a name and its arguments become an estimator.

A name is one of the table below, `package.module:attribute`, `file.py:attribute`, or an entry point of the
group `sbiflow.estimators`. Nothing is imported before a name is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from estimators import automatic, plugins
from estimators.checks import renamed
from estimators.settings import check_names, defaults, model_of, validated

if TYPE_CHECKING:
    from estimators.estimator import Estimator
    from estimators.problem import InferenceProblem

GROUP = "sbiflow.estimators"

TABLE = {
    "acf": "estimators.acf:ACF",
    "auto": "estimators.cmpe_distilled:CMPEDistilled",  # with settings by `estimators.automatic`
    "cmpe": "estimators.cmpe:CMPE",
    "cmpe_distilled": "estimators.cmpe_distilled:CMPEDistilled",
    "ensemble": "estimators.ensemble:Ensemble",
    "fmpe": "estimators.fmpe:FMPE",
    "joint": "estimators.joint.estimator:Joint",
    "joint_distilled": "estimators.joint.distilled:JointDistilled",
    "mixed": "estimators.mixed:Mixed",
    "npse": "estimators.npse:NPSE",
    "nsf": "estimators.nsf:NSF",
    "nsf_autoregressive": "estimators.nsf_autoregressive:AutoregressiveNSF",
}
# Names of former versions, and what to write instead: runs and artefacts that name them still open.
MOVED = {"cmpe_paper": "benchmarks.paper.cmpe_paper:CMPEPaper"}

FORMER_NAMES = {
    "gain": "input_scale",
    "kept": "replay_size",
    "slower": "student_rate",
    "steps": "sampling_steps",
    "teaching": "teacher_fraction",
}


def available() -> list[str]:
    """Return the names of the built-in estimators and of the installed plug-ins, sorted."""
    return plugins.available(TABLE, GROUP)


def current(name: str) -> str:
    """Return what to write for a name today; the name of a former version gives a warning."""
    if name not in MOVED:
        return name
    warnings.warn(
        f"estimator {name!r} is no part of sbiflow any more: write {MOVED[name]!r}, and work in a "
        "clone of its repository",
        FutureWarning,
        stacklevel=2,
    )
    return MOVED[name]


def resolve(name: str) -> type[Estimator]:
    """Return the class behind a name.

    Raises:
        LookupError: no estimator has this name, or the module or file lacks the attribute.
        TypeError: what the name leads to is no `Estimator` class.
    """
    try:
        found = plugins.find("estimator", current(name), TABLE, GROUP)
    except LookupError as error:
        if name in MOVED:
            raise LookupError(f"{error.args[0]}; work in a clone of its repository") from error
        raise
    from estimators.estimator import Estimator

    kind: type[Estimator] = plugins.require_subclass("estimator", name, found, Estimator)
    return kind


def arguments(name: str) -> dict[str, Any]:
    """Return the arguments an estimator accepts, each with its default (its configuration)."""
    return defaults(model_of(resolve(name)))


def check(name: str, given: Iterable[str]) -> None:
    """Raise where the name of the estimator or the name of an argument is unknown.

    Raises:
        LookupError: unknown estimator.
        TypeError: unknown argument; the message lists the valid ones.
    """
    model = model_of(resolve(name))
    check_names(f"estimator {name!r}", model, current_names(name, dict.fromkeys(given)))


def current_names(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an estimator with former names replaced, with a DeprecationWarning.

    Raises:
        LookupError: unknown estimator.
        TypeError: an argument is given under both names.
    """
    valid, current = arguments(name), {}
    for key, value in given.items():
        new = FORMER_NAMES.get(key, key)
        if key in valid or new not in valid:
            new = key
        elif new in given:
            raise TypeError(f"estimator {name!r}: {key!r} is the former name of {new!r}: give one")
        else:
            renamed(key, value, new)
        current[new] = value
    return current


def build(name: str, problem: InferenceProblem, given: Mapping[str, Any]) -> Estimator:
    """Return a new estimator that remembers its name and arguments (an artefact holds both).

    Raises:
        LookupError: unknown estimator, or `auto`, which `estimators.create` alone resolves.
    """
    if name == automatic.NAME:
        raise LookupError(
            f"estimator {name!r} is resolved by estimators.create alone; here an estimator is named: "
            f"{automatic.CHOSEN}, for example"
        )
    given, kind = current_names(name, given), resolve(name)
    settings = validated(f"estimator {name!r}", model_of(kind), given)
    by_name = kind.settings_type is None
    estimator = kind(problem, **given) if by_name else kind(problem, settings)
    estimator.name = name
    estimator.arguments = given
    return estimator
