"""Sampling error of the training parameters, for several designs (ways to draw them).

moon     two moons: the moon of each simulation (-1 or 1) is fitted by a polynomial in x. Where the prior's
         box cuts no moon, the exact value is 0; the error is the root mean square of the fit at fresh x there
moments  error of the means of all monomials up to degree 3 over the unit cube, divided by that of random draws

"weighted" are random draws, weighted so that the means of cosines are those under the prior.

    python -m experiments.design
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations_with_replacement, product

import numpy as np
from scipy.stats import qmc

import simulators
from experiments.two_moons_sampling_error import fitted, uncut
from pipeline.simulate.seed import points
from pipeline.train.row_weights import prior_weights


def golden(size: int, count: int, seed: int) -> np.ndarray:
    """Return multiples of powers of the generalised golden ratio, moved at random, modulo 1."""
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (size + 1))
    step = ratio ** -np.arange(1.0, size + 1)
    moved: np.ndarray = np.random.default_rng(seed).random(size) + np.arange(count)[:, None] * step
    return moved % 1


DESIGNS: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "random": lambda size, count, seed: np.random.default_rng(seed).random((count, size)),
    "sobol": lambda size, count, seed: points(seed, 0, size, 0, count),
    "halton": lambda size, count, seed: qmc.Halton(size, rng=seed).random(count),
    "golden": golden,
}
DESIGNS["weighted"] = DESIGNS["random"]


def weights(design: str, u: np.ndarray) -> np.ndarray:
    """Return the weights of points u (n, D) of the unit cube, shape (n,), 1 unless the design is weighted."""
    return prior_weights(u) if design == "weighted" else np.ones(len(u))


def moon(design: str, budget: int, degree: int, seeds: int = 20) -> float:
    """Return the root mean square error over seeds."""
    simulator = simulators.load("two_moons")

    def rows(name: str, number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u = DESIGNS[name](2, number, seed)
        theta = simulator.prior.quantile(u)
        x = simulator.simulate_block(theta, np.random.default_rng([seed, number]))["x"]
        return theta, x, weights(name, u)

    squares = []
    for seed in range(seeds):
        theta, x, w = rows(design, budget, seed)
        _, fresh, _ = rows("random", 400, 10_000 + seed)
        side = np.sign(theta.sum(axis=1, keepdims=True))
        squares.append(np.square(fitted(side, x, degree, fresh[uncut(fresh)], w)).mean())
    return float(np.sqrt(np.mean(squares)))


def moments(design: str, size: int, budget: int, seeds: int = 10) -> float:
    """Return the root mean square error of the means of all monomials up to degree 3."""
    errors = []
    for seed in range(seeds):
        u = DESIGNS[design](size, budget, seed)
        w, u = weights(design, u), 2 * u - 1
        for degree in (1, 2, 3):
            for chosen in combinations_with_replacement(range(size), degree):
                powers = np.bincount(chosen, minlength=size)
                exact = 0.0 if (powers % 2).any() else float(np.prod(1 / (powers + 1)))
                errors.append(np.mean(w * np.prod(u[:, list(chosen)], axis=1)) - exact)
    return float(np.sqrt(np.mean(np.square(errors))))


def main() -> None:
    """Print one JSON object for each case."""
    for budget, degree in product((1024, 8192), (2, 4, 6)):
        found = {name: round(moon(name, budget, degree), 4) for name in DESIGNS}
        print(json.dumps({"two_moons": budget, "degree": degree, **found}), flush=True)
    for size, budget in product((4, 7, 10), (1000, 10_000)):
        errors = {name: moments(name, size, budget) for name in DESIGNS}
        shares = {name: round(error / errors["random"], 3) for name, error in errors.items()}
        print(json.dumps({"parameters": size, "budget": budget, **shares}), flush=True)


if __name__ == "__main__":
    main()
