"""The C2ST on two moons that the sampling error of a finite number of simulations alone causes.

In a finite set of simulations one moon, or one end of an arc, is more frequent than the other near some x. An
estimator that does not know of the symmetry learns this too. The estimator here knows the exact posterior but
for seven functions of theta: the moon (phi_0), the position on the arc (phi_1 to phi_3, Legendre polynomials
of the angle), and their products (phi_4 to phi_6). Under the posterior each has mean 0 and variance 1, and
they are uncorrelated. It fits their conditional means to the simulations,

    g_k = polynomial in x of least squares for phi_k(theta) - E[phi_k | x],   k = 0 ... 6

and draws from p(theta | x) (1 + sum_k g_k(x) phi_k(theta)). Where the prior's box cuts an arc the draws are
exact. C2ST is the CMPE paper's; degree "none" is the exact posterior.

    python -m experiments.two_moons_sampling_error --budget 8192 --degrees 1 2 3 4 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from numpy.polynomial.legendre import Legendre

from benchmarks.estimators import OUT, TASKS, Benchmark
from evaluation.c2st import PAPER, c2st_batch
from simulators.two_moons import OFFSET, RADIUS, ROOT_HALF, displacement, exact

DRAWS = 4000
MEAN_DRAWS = 300  # of E[phi | x] where the prior's box cuts the arcs
SPARE = 8  # draws are proposed this many times over
REACH = 1.3 * RADIUS  # no arc is farther from its centre
EXACT = 5  # stream of random numbers


def features(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return phi (..., 7) of parameters (..., 2) at x that broadcasts with them."""
    first, second = displacement(theta, x)
    angle = np.arctan2(second, first)
    place = np.clip(angle / (math.pi / 2), -1, 1)
    moon = np.sign(theta.sum(axis=-1))
    arc = [math.sqrt(2 * k + 1) * Legendre.basis(k)(place) for k in (1, 2, 3)]
    return np.stack([moon, *arc, *(moon * part for part in arc)], axis=-1)


def uncut(x: np.ndarray) -> np.ndarray:
    """Return for each x (n, 2) whether the prior's box cuts no arc."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, 60)
    along = REACH * np.cos(angle) + OFFSET - x[:, :1]
    across = x[:, 1:] - REACH * np.sin(angle)
    inside = (along > 0) & (ROOT_HALF * (along + np.abs(across)) <= 1)
    return np.asarray(inside.all(1))


def residuals(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return phi - E[phi | x] of simulations, (n, 7)."""
    phi = features(theta, x)
    for i in np.flatnonzero(~uncut(x)):
        rng = np.random.default_rng(np.random.SeedSequence(EXACT, spawn_key=(i,)))
        phi[i] -= features(exact({"x": x[i]}, MEAN_DRAWS, rng), x[i]).mean(0)
    return phi


def fitted(
    residuals: np.ndarray,
    x: np.ndarray,
    degree: int,
    at: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return g (m, k) at the observations `at` (m, 2), fitted to residuals (n, k) at x (n, 2), by weights (n,)."""
    powers = [p for p in itertools.product(range(degree + 1), repeat=2) if sum(p) <= degree]
    centre, spread = x.mean(0), x.std(0)

    def basis(rows: np.ndarray) -> np.ndarray:
        z = (rows - centre) / spread
        return np.stack([z[:, 0] ** i * z[:, 1] ** j for i, j in powers], axis=1)

    root = np.ones((len(x), 1)) if weights is None else np.sqrt(weights)[:, None]
    coefficients = np.linalg.lstsq(root * basis(x), root * residuals, rcond=None)[0]
    return np.asarray(basis(at) @ coefficients)


def tilted(x: np.ndarray, g: np.ndarray, seed: int) -> np.ndarray:
    """Return draws (m, DRAWS, 2) of the posteriors at x (m, 2), tilted by g (m, 7) unless the prior cuts one."""
    draws = np.empty((len(x), DRAWS, 2))
    g = g * uncut(x)[:, None]
    for i in range(len(x)):
        rng = np.random.default_rng(np.random.SeedSequence(EXACT, spawn_key=(seed, i)))
        proposed = exact({"x": x[i]}, SPARE * DRAWS, rng)
        weight = np.maximum(1 + features(proposed, x[i]) @ g[i], 0)
        draws[i] = proposed[rng.random(len(proposed)) * weight.max() < weight][:DRAWS]
    return draws


def main() -> None:
    """Print C2ST for each degree, mean and standard error over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=8192)
    parser.add_argument("--degrees", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=OUT.parent / "references")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bench = Benchmark(next(task for task in TASKS if task.name == "two_moons"), asked.folder)
    x, reference = bench.x["x"], bench.reference("paper")
    print(
        "| degree | numbers each | rms of g_0 | C2ST, paper's | standard error |\n|---|---|---|---|---|"
    )
    simulated = {}
    for seed in asked.seeds:
        theta, outputs = bench.simulations(asked.budget, seed)
        simulated[seed] = residuals(theta, outputs["x"]), outputs["x"]
    for degree in (None, *asked.degrees):
        scores, sizes = [], []
        for seed, rows in simulated.items():
            g = np.zeros((len(x), 7)) if degree is None else fitted(*rows, degree, x)
            sizes.append(math.sqrt((g[uncut(x), 0] ** 2).mean()))
            scores.append(c2st_batch(reference, tilted(x, g, seed), definition=PAPER).mean())
        numbers = 0 if degree is None else (degree + 1) * (degree + 2) // 2
        name = "none" if degree is None else str(degree)
        error = np.std(scores, ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
        print(
            f"| {name} | {numbers} | {np.mean(sizes):.3f} | {np.mean(scores):.4f} | {error:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
