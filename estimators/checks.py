"""Checks of arguments, and the ends of their error messages."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def within(
    name: str, value: float, low: float, high: float = float("inf"), *, integer: bool = False
) -> None:
    """Raise ValueError or TypeError unless `value` is a number in [low, high]."""
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        valid = "an integer" if integer else "a number"
        raise TypeError(f"{name} = {value!r} is not {valid}")
    if not low <= value <= high:
        raise ValueError(f"{name} = {value!r} is not in [{low}, {high}]")


def suggest(word: str, valid: Iterable[str]) -> str:
    """Return the end of an error message: the closest valid words, then all of them, sorted."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return f"{question} Valid: {', '.join(words)}"


def renamed(old: str, value: T, new: str) -> T:
    """Return a value that was given or asked for under its former name, with a DeprecationWarning."""
    warnings.warn(f"{old!r} is deprecated: its name is now {new!r}", DeprecationWarning, 3)
    return value
