"""The distribution of a parameter from its JSON form, or from another package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from simulators.discrete import Categorical, Integer
from simulators.distribution import (
    Distribution,
    LogNormal,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
)
from simulators.frozen import adopted, scipy_from

DISTRIBUTIONS: dict[str, type[Distribution]] = {
    kind.name: kind
    for kind in (Categorical, Integer, LogNormal, LogUniform, Normal, TruncatedNormal, Uniform)
}


def distribution_from(parameter: str, spec: Mapping[str, Any]) -> Distribution:
    """Build the distribution of `parameter` from its JSON form; the inverse of `spec()`.

    Raises: ValueError or TypeError naming the parameter, the key and what is valid.
    """
    where = f"prior of '{parameter}'"
    if "name" not in spec:
        raise ValueError(f"{where} lacks the key 'name'; valid: {', '.join(DISTRIBUTIONS)}")
    kind = DISTRIBUTIONS.get(str(spec["name"]))
    if kind is None:
        valid = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"{where}: unknown distribution {spec['name']!r}; valid: {valid}")
    keys = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    given = {key: value for key, value in spec.items() if key != "name"}
    if unknown := [key for key in given if key not in keys]:
        valid = ", ".join(["name", *keys])
        raise ValueError(f"{where}: {kind.name} has no key {unknown[0]!r}; valid: {valid}")
    try:
        distribution = kind(**given)
    except TypeError:
        valid = ", ".join(keys)
        raise ValueError(f"{where}: {kind.name} needs {valid}, got {sorted(given)}") from None
    distribution.check(parameter)
    return distribution


def distribution_of(name: str, value: Any) -> Any:
    """Return a parameter's distribution from its JSON form, from another package, or as it is."""
    if not isinstance(value, Mapping):
        return adopted(name, value)
    made = scipy_from if value.get("name") == "scipy" else distribution_from
    return made(name, value)
