"""Simulators by name: built in, in a file, in a package, or from an installed plug-in."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from simulators.call import close_match, parameters_of
from simulators.cell import PLACE
from simulators.factory import SimulatorFactory, check_arguments
from simulators.observation import Observe
from simulators.prior_spec import prior_from
from simulators.program import Program
from simulators.simulator import PriorLike, Simulator

GROUP = "sbiflow.simulators"
BUILT_IN = {
    "bernoulli_glm": "simulators.bernoulli_glm:bernoulli_glm",
    "bernoulli_glm_raw": "simulators.bernoulli_glm_raw:bernoulli_glm_raw",
    "fashion_denoising": "simulators.fashion_denoising:fashion_denoising",
    "fashion_images": "simulators.fashion_images:fashion_images",
    "gaussian_linear": "simulators.gaussian_linear:gaussian_linear",
    "gaussian_linear_uniform": "simulators.gaussian_linear_uniform:gaussian_linear_uniform",
    "gaussian_mixture": "simulators.gaussian_mixture:gaussian_mixture",
    "gaussian_mixture_uniform": "simulators.gaussian_mixture_uniform:gaussian_mixture_uniform",
    "imported": "simulators.imported:imported",
    "inverse_kinematics": "simulators.inverse_kinematics:inverse_kinematics",
    "linear_gaussian_image": "simulators.linear_gaussian_image:linear_gaussian_image",
    "lotka_volterra": "simulators.lotka_volterra:lotka_volterra",
    "program": "simulators.program:Program",
    "sir": "simulators.sir:sir",
    "slcp": "simulators.slcp:slcp",
    "slcp_distractors": "simulators.slcp_distractors:slcp_distractors",
    "tumor_spheroid": "simulators.tumor_spheroid:TumorSpheroid",
    "two_moons": "simulators.two_moons:two_moons",
}


_defined: dict[str, Callable[[], Simulator]] = {}  # by name, what gives a simulator of no module


def define(name: str, give: Callable[[], Simulator]) -> str:
    """Let `load` find a simulator that no other process can import; return under which name.

    Arguments:
        name: of the simulator.
        give: called when it is loaded.
    """
    _defined[name] = give
    return f"{PLACE}:{name}"


def available() -> list[str]:
    """Return the names of the built-in simulators and of the installed plug-ins, sorted."""
    return sorted({*BUILT_IN, *_plug_ins()})


def load(name: str, /, *, prior: PriorLike | None = None, **arguments: Any) -> Simulator:
    """Return the simulator of that name.

    Arguments:
        name: a built-in simulator or a plug-in (see `available`), "path/to/file.py:attribute", or
            "package.module:attribute".
        prior: replaces the simulator's own prior: a prior or what `prior_from` takes.
        arguments: what the simulator is made with.

    Raises: LookupError for an unknown name, with close matches; ValueError or TypeError for a bad
    prior or argument, naming key, value and what is valid.
    """
    target, shown = _find(name)
    make = target.factory if isinstance(target, Simulator) else target
    if make is None:
        made = _ready_made(shown, target, prior, arguments)
    elif isinstance(make, SimulatorFactory):
        made = make(prior=prior, **arguments)
    elif isinstance(make, type) and issubclass(make, Program):
        check_arguments(shown, arguments, set(parameters_of(shown, make)) - {"prior"})
        made = make(prior=prior, **arguments)
    else:
        hint = "decorate a function or a class with @simulator(prior=...)"
        raise TypeError(f"{shown} is not a simulator but {target!r}; {hint}")
    made.name, made.address = shown, _absolute(name)
    if name.startswith(f"{PLACE}:"):
        made.address, made.defined_by = "", target.defined_by
    return made


def _ready_made(
    shown: str, target: Simulator, prior: PriorLike | None, arguments: dict[str, Any]
) -> Simulator:
    other_prior = prior is not None and prior_from(prior) != target.prior
    if other_prior or arguments not in ({}, target.arguments):
        raise TypeError(f"{shown} is a ready-made simulator: it takes no prior and no arguments")
    return copy.copy(target)


def _find(name: str) -> tuple[Any, str]:
    """Return what a name stands for and the name that identifies it on any machine."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a simulator's name must be text, got {name!r}")
    place, colon, attribute = name.rpartition(":")
    if place == PLACE:
        if attribute not in _defined:
            raise LookupError(
                f"simulator '{attribute}' was defined in a notebook or a script: open the run there, by "
                "sbiflow.Run(path, simulator=...)"
            )
        return _defined[attribute](), attribute
    if colon:
        shown = f"{Path(place).name}:{attribute}" if place.endswith(".py") else name
        return definition(name, "simulator"), shown
    if name in BUILT_IN:
        return _find(BUILT_IN[name])[0], name
    plug_ins = _plug_ins()
    if name in plug_ins:
        return _find(plug_ins[name].value)[0], name
    known = available()
    forms = "'file.py:attribute' and 'package.module:attribute' are valid too"
    hint = close_match(name, known)
    raise LookupError(f"unknown simulator '{name}'{hint} (valid: {', '.join(known)}; {forms})")


def definition(name: str, what: str) -> Any:
    """Return what "file.py:attribute" or "package.module:attribute" stands for.

    Raises: LookupError: there is nothing; ValueError: its file cannot be run. Messages call it `what`.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise LookupError(f"{what} {name!r}: write 'file.py:name' or 'package.module:name'")
    module = _file_module(Path(place)) if place.endswith(".py") else _module(place, name)
    return _attribute(module, attribute, name)


def load_augmentation(name: str) -> Observe:
    """Return the augmentation `file.py:function` or `package.module:function`: `function(x, rng)` of one row.

    Raises:
        LookupError: nothing of this name.
        TypeError: it is no function.
    """
    return Observe(name, definition(name, "augmentation"), batched=False)


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _absolute(name: str) -> str:
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if colon and place.endswith(".py") else name


def _module(place: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise LookupError(f"simulator '{name}': no module '{error.name}'") from None
        raise ValueError(f"simulator '{name}': {place} cannot be imported: {error}") from error
    except Exception as error:
        raise ValueError(f"simulator '{name}': {place} cannot be imported: {error!r}") from error


def _file_module(path: Path) -> ModuleType:
    """Import a file under a name made from its path and content, so that an edit is seen."""
    path = path.resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        what = error.strerror
        raise LookupError(f"the simulator's file '{path}' cannot be read: {what}") from None
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    key = f"_simulator_{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    if str(path.parent) not in sys.path:  # behind everything that is installed
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[key]
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"the simulator's file '{path}' cannot be run: {error!r}") from error
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(module) if not key.startswith("_")]
            hint = close_match(part, public)
            raise LookupError(f"simulator '{name}': nothing is called '{attribute}' there{hint}")
        found = getattr(found, part)
    return found
