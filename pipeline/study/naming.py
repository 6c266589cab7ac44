"""Names of cases: readable, and functions of their own values alone, so that they never change."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pipeline.config import flat
from pipeline.errors import UsageError

DIGITS = 8  # characters of a number that is written as it is; longer ones are rounded
LONGEST = 48  # characters of a label; longer ones end in a hash
MOST = 200  # characters of the name of a case, which is that of a folder
STRANGE = re.compile(r"[^\w.+-]+")


def labelled(values: list[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Return values by label: as given, or as they read.

    Raises:
        UsageError: two values read the same.
    """
    if isinstance(values, Mapping):
        pairs = [(_safe(str(name)), value) for name, value in values.items()]
    else:
        pairs = [(label(value), value) for value in values]
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            both = f"{found[name]!r} and {value!r}"
            raise UsageError(
                f"two values have the name {name!r}, {both}: give each a name of its own"
            )
        found[name] = value
    return found


def label(value: Any) -> str:
    """Return how a value reads in a name: `cmpe`, `0.001`, or `cmpe+width-64` for a mapping."""
    if isinstance(value, Mapping):
        settings = {key: one for key, one in flat(value).items() if one != {}}
        first = [_plain(settings.pop("name"))] if "name" in settings else []
        parts = [f"{key.rpartition('.')[2]}-{_plain(one)}" for key, one in settings.items()]
        text = "+".join([*first, *parts])
    else:
        text = _plain(value)
    safe = _safe(text)
    if len(safe) <= LONGEST and safe:
        return safe
    return f"{safe[: LONGEST - 7]}-{_hash(value)}"


def case_name(labels: Mapping[str, str]) -> str:
    """Return the name of a case: `case,budget=512,seed=0`, with the last part of each key."""
    parts = [
        name if axis == "case" else f"{_short(axis, labels)}={name}"
        for axis, name in labels.items()
    ]
    return ",".join(parts)


def _short(axis: str, axes: Mapping[str, str]) -> str:
    last = axis.rpartition(".")[2]
    return axis if sum(other.rpartition(".")[2] == last for other in axes) > 1 else last


def _plain(value: Any) -> str:
    if isinstance(value, str):
        file, colon, attribute = value.rpartition(":")
        return attribute if colon and file else PurePath(value).name
    if isinstance(value, list):
        return "-".join(map(_plain, value))
    if isinstance(value, float) and len(repr(value)) > DIGITS:
        return f"{value:.5g}"
    return json.dumps(value)


def _safe(text: str) -> str:
    return STRANGE.sub("_", text).strip("_.-") or "_"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
