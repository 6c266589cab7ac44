"""How a model is called: one keyword per parameter, or the whole vector as `theta`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def close_match(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'sigma'?` where a valid word is close, else an empty text."""
    near = difflib.get_close_matches(word, list(valid), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def parameters_of(name: str, target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or a constructor by name.

    Raises TypeError where they cannot be given by name.
    """
    try:
        found = inspect.signature(target).parameters
    except ValueError:
        raise TypeError(f"{name}: the signature of {target!r} cannot be read") from None
    unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    for parameter in found.values():
        if parameter.kind in unnamed:
            raise TypeError(f"{name}: '{parameter}' cannot be given by name")
    return dict(found)


class Call:
    """A model together with the prior's names that are its parameters.

    Raises: ValueError naming both sides where the names and the model's parameters differ.
    """

    def __init__(self, name: str, model: Callable[..., Any], names: tuple[str, ...]) -> None:
        self.name, self.model, self.names = name, model, names
        takes = parameters_of(name, model)
        any_name = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        self.whole = "theta" in takes and "theta" not in names
        self.rng = "rng" in takes or any_name
        own = {
            key: parameter
            for key, parameter in takes.items()
            if parameter.kind is not parameter.VAR_KEYWORD
            and key != "rng"
            and not (self.whole and key == "theta")
        }
        self.defaults = {k: p.default for k, p in own.items() if p.default is not p.empty}
        unknown = [] if self.whole or any_name else [key for key in names if key not in own]
        uncovered = [key for key in own if key not in names and key not in self.defaults]
        if unknown or uncovered:
            raise ValueError(_disagreement(name, list(own), names, unknown, uncovered))

    def vector(self, given: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return theta, shape (D,), from values by name and the model's defaults.

        Raises TypeError naming the parameter that is unknown, missing or not a number.
        """
        for key in given:
            if key not in self.names:
                valid = ", ".join(self.names)
                hint = close_match(key, self.names)
                raise TypeError(f"{self.name} has no parameter '{key}'{hint} (valid: {valid})")
        values = {key: self.defaults[key] for key in self.names if key in self.defaults}
        values.update(given)
        if missing := [key for key in self.names if key not in values]:
            raise TypeError(f"{self.name} needs a value for '{missing[0]}', which has no default")
        theta = np.empty(len(self.names))
        for j, key in enumerate(self.names):
            try:
                theta[j] = values[key]
            except (TypeError, ValueError):
                what = f"must be one number, got {values[key]!r}"
                raise TypeError(f"{self.name}: parameter '{key}' {what}") from None
        return theta

    def __call__(self, theta: NDArray[np.float64], columns: Iterable[Any], rng: Generator) -> Any:
        """Call the model; `columns` are the values of the parameters in order."""
        keywords: dict[str, Any] = (
            {"theta": theta} if self.whole else dict(zip(self.names, columns, strict=True))
        )
        if self.rng:
            keywords["rng"] = rng
        return self.model(**keywords)


def _disagreement(
    name: str, own: list[str], names: tuple[str, ...], unknown: list[str], uncovered: list[str]
) -> str:
    parts = []
    if unknown:
        parts.append(f"the prior names {_quoted(unknown)}, which the model does not take")
    if uncovered:
        parts.append(f"the model takes {_quoted(uncovered)}, which has neither prior nor default")
    sides = f"prior: {', '.join(names)}; model: {', '.join(own) or 'no parameters'}"
    return f"{name}: {'; '.join(parts)} ({sides})"


def _quoted(words: list[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
