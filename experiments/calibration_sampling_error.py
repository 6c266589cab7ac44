"""The MaxECE that the sampling error of N simulations alone causes.

Take an estimator that is exactly calibrated on its N training simulations. On a new test set the rank of the
true parameter is then G(u), where u is uniform and G is the empirical distribution of N other uniform numbers.
This gives the distribution of MaxECE under the sampling error of the simulations. A smooth estimator has a
smaller error; a perfect sampler has the rank u.

    python -m experiments.calibration_sampling_error
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
