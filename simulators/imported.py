"""Ready-made simulations: pairs (theta, x) from elsewhere, whose simulator is not at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from numpy.random import Generator
from numpy.typing import ArrayLike

from simulators.distribution import Array, Distribution
from simulators.factory import simulator
from simulators.prior import Independent

READY_MADE = "imported simulations are ready-made: there is no simulator to run"


@dataclass(frozen=True)
class Unknown(Distribution):
    """The distribution of a parameter of which nothing but values is known."""

    name: ClassVar[str] = "unknown"

    @property
    def support(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def problem(self) -> str | None:
        return None

    def sample(self, rng: Generator, n: int) -> NoReturn:
        raise ValueError(READY_MADE)

    def quantile(self, u: Array) -> NoReturn:
        raise ValueError(READY_MADE)

    def cdf(self, value: Array) -> NoReturn:
        raise ValueError(READY_MADE)

    def log_prob(self, value: ArrayLike) -> NoReturn:
        raise ValueError("the prior of imported simulations is not known: give one at the import")


@simulator()
class imported:  # noqa: N801 - the simulator's name
    """Stands where a simulator would; `sbiflow import` makes runs of it.

    Arguments:
        names: of the D parameters.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if isinstance(names, str):
            raise TypeError(f"imported: names must be a list of names, got {names!r}")
        self.prior = Independent({name: Unknown() for name in names})

    def simulate(self, theta: Array, rng: Generator) -> NoReturn:
        raise ValueError(READY_MADE)
