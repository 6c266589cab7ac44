"""The Dirichlet distribution: shares of a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from simulators.distribution import Array
from simulators.prior import Prior, checked_names, finite_numbers


class Dirichlet(Prior):
    """Shares of a whole: positive parameters that add up to one.

        p(theta) = Gamma(sum_k a_k) / prod_k Gamma(a_k)  prod_k theta_k^(a_k - 1)

    a density of the first D - 1 parameters; the last one is what they leave.

    Arguments:
        names: D names, at least two.
        concentration: a, shape (D,), positive; all 1: every division is equally probable.

    Raises: ValueError or TypeError naming what is wrong.
    """

    def __init__(self, names: Sequence[str], concentration: ArrayLike) -> None:
        self.names = checked_names(list(names))
        dim = len(self.names)
        if dim < 2:
            raise ValueError(f"dirichlet needs at least two names, got {list(self.names)}")
        self.concentration = finite_numbers("concentration", concentration, (dim,))
        if not np.all(self.concentration > 0):
            raise ValueError(f"concentration must be positive, got {self.concentration.tolist()}")
        self.low, self.high = np.zeros(dim), np.ones(dim)

    @property
    def simplexes(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.names))),)

    def sample(self, rng: Generator, n: int) -> Array:
        return rng.dirichlet(self.concentration, n)

    def log_prob(self, theta: ArrayLike) -> Array:
        from scipy.special import gammaln, xlogy

        rows, a = self._rows(theta), self.concentration
        inside = np.all(rows >= 0, axis=1) & (np.abs(rows.sum(axis=1) - 1) < 1e-5)
        with np.errstate(divide="ignore"):
            density = xlogy(a - 1, np.clip(rows, 0, 1)).sum(axis=1)
        density += gammaln(a.sum()) - gammaln(a).sum()
        return np.where(inside, density, -np.inf)

    def spec(self) -> dict[str, Any]:
        return {
            "name": "dirichlet",
            "names": list(self.names),
            "concentration": self.concentration.tolist(),
        }
