"""What a name stands for: a part of this package, or of a user's own module or file.

A name is one of a table, `package.module:attribute`, `path/to/file.py:attribute`, or an entry point of the
table's group. Nothing is imported before a name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from estimators.checks import suggest


def find(what: str, name: str, table: Mapping[str, str], group: str | None = None) -> Any:
    """Return the attribute of a module that a name stands for.

    Arguments:
        what: estimator, network and so on, for the messages.
        name: see the text of this module.
        table: the built-in names, each with its `package.module:attribute`.
        group: the entry points of installed plug-ins.

    Raises:
        LookupError: an unknown name, no such module or file, or no such attribute in it.
        ValueError: a file that cannot be imported.
    """
    target = table.get(name, name if ":" in name else None)
    if target is None and group is not None:
        points = metadata.entry_points(group=group, name=name)
        target = next((point.value for point in points), None)
    if target is None:
        known = available(table, group)
        forms = "; or package.module:attribute, or file.py:attribute"
        raise LookupError(f"unknown {what} {name!r}{suggest(name, known)}{forms}")
    place, _, attribute = target.rpartition(":")
    load = _file if place.endswith(".py") else _module
    return _attribute(what, name, load(what, name, place), attribute)


def available(table: Mapping[str, str], group: str | None = None) -> list[str]:
    """Return the names of a table and of the installed plug-ins of its group, sorted."""
    points = metadata.entry_points(group=group) if group else ()
    return sorted({*table, *(point.name for point in points)})


def require_subclass(what: str, name: str, found: Any, base: type) -> Any:
    """Return a class that was found, or raise TypeError where it does not extend `base`."""
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise TypeError(
            f"{what} {name!r}: {found!r} is no subclass of {base.__module__}.{base.__name__}"
        )
    return found


def _module(what: str, name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise LookupError(f"{what} {name!r}: no module named {place!r}") from error


def _file(what: str, name: str, place: str) -> ModuleType:
    """Import a file under a name made of its path and content, so that a changed file is read again."""
    path = Path(place).resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LookupError(
            f"{what} {name!r}: file {str(path)!r} cannot be read ({error.strerror})"
        ) from None
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:16]
    key = f"_estimators_{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise ValueError(f"{what} {name!r}: {path} cannot be imported: {error!r}") from error
    return module


def _attribute(what: str, name: str, module: ModuleType, attribute: str) -> Any:
    if not hasattr(module, attribute):
        own = [word for word in vars(module) if not word.startswith("_")]
        raise LookupError(
            f"{what} {name!r}: module {module.__name__!r} has no {attribute!r}{suggest(attribute, own)}"
        )
    return getattr(module, attribute)
