"""How fast one tumour spheroid is, against the original's CPU seconds, and how its cost grows.

`python -m benchmarks.tumor [PICTURE]` prints one JSON object: CPU seconds of one run on one core (median
of repeated runs with different seeds) at the default parameters and at 25 draws from the prior, as
ratios to the stored CPU seconds of the original (compiled with -O3, on a machine of the same kind);
and the cost against cells and events on a lattice of a million sites, drawn as PICTURE if given.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import simulators
from benchmarks.tumor_equality import reference
from simulators.tumor_spheroid.lattice import SEED, lattice, search_pattern
from simulators.tumor_spheroid.model import grow
from simulators.tumor_spheroid.state import FULL, Parameters

REPEATS = 15
LARGE = 1000  # sites per row
LARGE_HOURS = (432.0, 700.0, 1100.0, 1800.0, 2800.0, 4200.0, 7000.0)


def cpu_seconds(model: simulators.Simulator, theta: np.ndarray, repeats: int = REPEATS) -> float:
    """Median CPU seconds of one simulation."""
    spent = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        started = time.process_time()
        model.simulate(theta, rng)
        spent.append(time.process_time() - started)
    return statistics.median(spent)


def against_original() -> dict[str, Any]:
    """Seconds and ratio at every stored point; point 0 is the default."""
    stored = reference()
    model = simulators.load("tumor_spheroid")
    ours, original = [], []
    for point, theta in enumerate(stored["theta"]):
        ours.append(cpu_seconds(model, theta))
        seconds = stored["cpu_seconds"][stored["run_point"] == point]
        original.append(float(np.median(seconds)))
    ratios = [theirs / mine for theirs, mine in zip(original, ours, strict=True)]
    return {
        "default_s": ours[0],
        "default_ratio": ratios[0],
        "prior_median_ratio": statistics.median(ratios[1:]),
        "prior_least_ratio": min(ratios[1:]),
        "prior_mean_s": statistics.mean(ours[1:]),
        "ours_s": ours,
        "original_s": original,
        "ratios": ratios,
    }


def first_call() -> dict[str, float]:
    """CPU seconds until the first simulation of this process is done, with the cache as it is."""
    started = time.process_time()
    simulators.load("tumor_spheroid")(seed=0)
    return {"first_call_s": time.process_time() - started}


def growth_of_cost() -> list[dict[str, float]]:
    """Sites, events and CPU seconds of default tumours on a large lattice, by simulated hours."""
    sites = lattice(LARGE)
    pattern = search_pattern(LARGE, SEED, int(sites.neighbours_of(sites.middle)[0]))
    parameters = Parameters(*reference()["theta"][0].tolist())
    rows = []
    for hours in LARGE_HOURS:
        spent = []
        for seed in range(3):
            started = time.process_time()
            _, tumour, events = grow(
                sites, pattern, parameters, np.random.default_rng(seed), hours, np.empty(0)
            )
            spent.append(time.process_time() - started)
        occupied = int(tumour.counts[FULL])
        seconds = statistics.median(spent)
        rows.append({"hours": hours, "sites": occupied, "events": events, "seconds": seconds})
    return rows


def draw(path: Path, rows: list[dict[str, float]]) -> None:
    """CPU seconds against occupied sites and events, all logarithmic."""
    import matplotlib.pyplot as plt

    sites, events, seconds = (
        np.array([row[key] for row in rows]) for key in ("sites", "events", "seconds")
    )
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained", sharey=True)
    for panel, size, label in zip(axes, (sites, events), ("occupied sites", "events"), strict=True):
        panel.loglog(size, seconds, "o-", label="measured")
        panel.loglog(size, seconds[-1] * size / size[-1], ":", color="0.5", label="proportional")
        panel.set_xlabel(label)
    axes[0].set_ylabel("CPU seconds of one run")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure and print."""
    result = {**first_call(), **against_original(), "large": growth_of_cost()}
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]), result["large"])
    print(json.dumps({"benchmark": "tumor", **result}))


if __name__ == "__main__":
    main()
