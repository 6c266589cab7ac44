"""How calibrated the chance of the simulations alone lets an estimator be.

An estimator that is calibrated on its N simulations, to the letter, takes over their chance: the ranks of
fresh truths among its draws are uniform numbers u seen through the empirical distribution G of N others,
G(u), and MaxECE is that of G(u). A smooth estimator takes over less; a perfect sampler has u itself.

    python -m benchmarks.calibration_chance
"""

from __future__ import annotations

import json
from itertools import product

import numpy as np

from evaluation.calibration import REPETITIONS, max_ece, null_max_ece


def fitted_max_ece(simulations: int, sets: int, parameters: int, repetitions: int) -> np.ndarray:
    """Return MaxECE of estimators calibrated on `simulations`, shape (repetitions,)."""
    rng = np.random.default_rng(0)

    def one() -> float:
        fitted = np.sort(rng.random((simulations, parameters)), axis=0)
        u = rng.random((sets, parameters))
        below = [np.searchsorted(fitted[:, d], u[:, d]) for d in range(parameters)]
        return max_ece(np.stack(below, axis=1) / simulations)

    return np.array([one() for _ in range(repetitions)])


def main() -> None:
    """Print median and 95 % quantile for budgets, test sets and parameters."""
    for sets, parameters in product((100, 1000), (2, 4)):
        found = {"perfect": null_max_ece(sets, parameters)}
        for budget in (1024, 8192):
            found[str(budget)] = fitted_max_ece(budget, sets, parameters, REPETITIONS)
        shown = {k: np.quantile(v, [0.5, 0.95]).round(4).tolist() for k, v in found.items()}
        print(json.dumps({"sets": sets, "parameters": parameters, **shown}), flush=True)


if __name__ == "__main__":
    main()
