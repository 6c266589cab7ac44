"""Simulators that are defined in a notebook or a script: sent to other processes by value, known by their source.

The source of such a model is that of its function and of all functions and constants that it uses and that are
defined beside it. So a cell that is changed is noticed, and another cell of the same notebook is not.
"""

from __future__ import annotations

import hashlib
import inspect
import marshal
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from simulators.source import Source

PLACE = "__main__"
LONGEST = 2000  # characters of a constant; of longer ones the checksum counts
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def is_local(model: Callable[..., Any]) -> bool:
    """Whether no other process can import a model by name."""
    target = definition_of(model)
    return target.__module__ == PLACE or "<" in target.__qualname__


def definition_of(model: Callable[..., Any]) -> Any:
    """Return the function of a model, or the class where it is a method."""
    target = inspect.unwrap(getattr(model, "func", model))
    owner = getattr(target, "__self__", None)
    if owner is not None:
        return owner if isinstance(owner, type) else type(owner)
    return target if hasattr(target, "__qualname__") else type(target)


def source_of_cell(model: Callable[..., Any]) -> Source:
    """Return the source of a model that is defined in a notebook, in a script or within a function."""
    texts: dict[str, str] = {}
    waiting = [definition_of(model)]
    while waiting:
        target = waiting.pop()
        if (file := f"{target.__qualname__}.py") in texts:
            continue
        texts[file] = _text(target)
        for name, value in _used(target):
            if isinstance(value, (FunctionType, type)) and value.__module__ == target.__module__:
                waiting.append(value)
            elif (constant := _constant(value)) is not None:
                texts[f"{name} ="] = constant
    return Source(texts)


def _text(target: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(target))
    except (OSError, TypeError):
        codes = [marshal.dumps(function.__code__) for function in _functions(target)]
        return f"# no source, code {hashlib.sha256(b''.join(codes)).hexdigest()}\n"


def _functions(target: Any) -> list[FunctionType]:
    """Return a function, or those of a class, by name."""
    if isinstance(target, FunctionType):
        return [target]
    found = [value for _, value in sorted(vars(target).items())]
    return [value for value in found if isinstance(value, FunctionType)]


def _used(target: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names outside of a definition that it uses, with their values."""
    for function in _functions(target):
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                yield name, function.__globals__[name]
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not bound yet
                continue


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _constant(value: Any) -> str | None:
    """Return a constant as text; None for what is no plain value or array of numbers."""
    if isinstance(value, ModuleType) or callable(value):
        return None
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        content = f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        return f"# array {content}\n"
    if not _is_plain(value):
        return None
    text = repr(value)
    return text if len(text) < LONGEST else f"# {hashlib.sha256(text.encode()).hexdigest()}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return isinstance(value, PLAIN)
