"""Priors from their JSON form, and the product of several, whose parts may be given in it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from simulators.data_prior import DataPrior
from simulators.dirichlet import Dirichlet
from simulators.distribution import Array
from simulators.distribution_spec import distribution_of
from simulators.prior import Independent, MultivariateNormal, Prior, checked_names


class Product(Prior):
    """Independent groups of parameters, each with a prior of its own.

    Arguments:
        parts: the priors of the groups, in the order of theta's columns; also in their JSON form.

    Raises: ValueError naming a parameter that two groups have.
    """

    def __init__(self, parts: Sequence[Prior | Mapping[str, Any]]) -> None:
        if isinstance(parts, Mapping) or not parts:
            raise ValueError(f"product needs a list of priors, got {parts!r}")
        self.parts = tuple(prior_from(part) for part in parts)
        self.names = checked_names([name for part in self.parts for name in part.names])
        self.low = np.concatenate([part.low for part in self.parts])
        self.high = np.concatenate([part.high for part in self.parts])
        if without := [part for part in self.parts if not part.has_density]:
            raise ValueError(f"product needs priors with a density, got {without[0]}")

    @property
    def scales(self) -> tuple[str, ...]:
        return tuple(scale for part in self.parts for scale in part.scales)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for part in self.parts for kind in part.kinds)

    @property
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        found, first = [], 0
        for part in self.parts:
            found += [tuple(first + column for column in group) for group in part.simplexes]
            first += len(part.names)
        return tuple(found)

    def sample(self, rng: Generator, n: int) -> Array:
        return np.concatenate([part.sample(rng, n) for part in self.parts], axis=1)

    @property
    def has_quantile(self) -> bool:
        return all(part.has_quantile for part in self.parts)

    def quantile(self, u: Array) -> Array:
        return np.concatenate([p.quantile(c) for p, c in self._columns(u)], axis=1)

    def cube(self, theta: Array) -> Array:
        return np.concatenate([p.cube(c) for p, c in self._columns(theta)], axis=1)

    def log_prob(self, theta: ArrayLike) -> Array:
        columns = self._columns(self._rows(theta))
        return np.sum([part.log_prob(rows) for part, rows in columns], axis=0)

    def spec(self) -> dict[str, Any]:
        return {"name": "product", "parts": [part.spec() for part in self.parts]}

    def _columns(self, rows: Array) -> list[tuple[Prior, Array]]:
        edges = np.cumsum([len(part.names) for part in self.parts])[:-1]
        return list(zip(self.parts, np.split(rows, edges, axis=1), strict=True))


JOINT: dict[str, type[Prior]] = {
    "dirichlet": Dirichlet,
    "multivariate_normal": MultivariateNormal,
    "product": Product,
}
JOINT_KEYS = {  # those that are needed, and others
    "dirichlet": (("names", "concentration"), ()),
    "multivariate_normal": (("names", "mean", "covariance"), ("low", "high")),
    "product": (("parts",), ()),
}


def prior_from(spec: Prior | Mapping[str, Any]) -> Prior:
    """Build a prior from its JSON form or from distributions by name; a prior is returned as it is.

        {"mu": {"name": "uniform", "low": -3, "high": 3}, ...}       independent parameters
        {"mu": Uniform(-3, 3), ...}                                  the same in Python
        {"mu": scipy.stats.gamma(2.0), ...}                          a frozen distribution of scipy.stats
        {"name": "multivariate_normal", "names": [...], "mean": [...], "covariance": [[...]]}
        {"name": "dirichlet", "names": [...], "concentration": [...]}
        {"name": "product", "parts": [..., ...]}                     independent groups
        {"name": "data", "path": "rows.npy"}                         the rows of a data set

    Raises: ValueError or TypeError naming the key, the value and what is valid.
    """
    if isinstance(spec, Prior):
        return spec
    if not isinstance(spec, Mapping):
        raise TypeError(f"a prior must map parameter names to distributions, got {spec!r}")
    if isinstance(spec.get("name"), str):
        return _joint_from(spec)
    return Independent({name: distribution_of(str(name), value) for name, value in spec.items()})


def follows_from_spec(prior: Prior) -> bool:
    """Say whether `prior_from` makes this very prior of its JSON form: not one of a class of your own."""
    try:
        again = prior_from(json.loads(json.dumps(prior.spec())))
    except (TypeError, ValueError):
        return False
    if type(again) is not type(prior) or again != prior:
        return False
    kinds = [list(map(type, getattr(p, "distributions", {}).values())) for p in (again, prior)]
    return kinds[0] == kinds[1]


def _joint_from(spec: Mapping[str, Any]) -> Prior:
    if spec["name"] == "data":
        return _data_from(spec)
    kind = JOINT.get(spec["name"])
    if kind is None:
        raise ValueError(f"unknown prior {spec['name']!r}; valid: {', '.join((*JOINT, 'data'))}")
    given = {key: value for key, value in spec.items() if key != "name"}
    needed, others = JOINT_KEYS[spec["name"]]
    if unknown := [key for key in given if key not in (*needed, *others)]:
        valid = ", ".join(("name", *needed, *others))
        raise ValueError(f"{spec['name']} has no key {unknown[0]!r}; valid: {valid}")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{spec['name']} lacks the key {missing[0]!r}")
    return kind(**given)


def _data_from(spec: Mapping[str, Any]) -> Prior:
    """Build a prior that is a data set."""
    valid = ["name", "path", *list(inspect.signature(DataPrior).parameters)[1:]]
    if unknown := [key for key in spec if key not in valid]:
        raise ValueError(f"data has no key {unknown[0]!r}; valid: {', '.join(valid)}")
    return DataPrior.from_spec(dict(spec))
