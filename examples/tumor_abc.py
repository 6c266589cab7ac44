"""Which tumour spheroids look like the default one? ABC-SMC of pyABC on sbiflow's actors.

    python -m examples.tumor_abc runs/tumor_abc

The observation is the mean of 100 simulations at the default parameters, the distance that of pyABC's own
tumour example: squared differences by their variance over those simulations, summed over the growth curve and both
profiles. Writes `draws.npz`, pyABC's history `abc.db` and a picture to the folder, prints the central 95 %
interval of every parameter. See `docs/abc.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import simulators
from pipeline.abc import AbcResult, abc_smc, standardised_squares
from pipeline.stop import stop_on_signals

DEFAULTS = {
    "division_rate": 0.0417,
    "initial_spheroid_radius": 12.0,
    "initial_quiescent_cell_fraction": 0.75,
    "division_depth": 100.0,
    "ecm_production_rate": 0.005,
    "ecm_degradation_rate": 0.0008,
    "ecm_division_threshold": 0.01,
}
REPLICATES = 100
POPULATION = 120
SIMULATIONS = 3_000


def replicates(model: simulators.Simulator, n: int) -> dict[str, np.ndarray]:
    """Outputs of n simulations at the defaults, each (n, ...)."""
    runs = [model(seed=seed, **DEFAULTS) for seed in range(n)]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def infer(
    folder: Path, population: int = POPULATION, simulations: int = SIMULATIONS, seed: int = 0
) -> AbcResult:
    """Run ABC-SMC until the simulations are used up."""
    model = simulators.load("tumor_spheroid")
    stored = replicates(model, REPLICATES)
    with stop_on_signals() as stop:
        return abc_smc(
            model,
            {name: values.mean(axis=0) for name, values in stored.items()},
            folder,
            distance=standardised_squares(stored),
            population=population,
            generations=100,
            simulations=simulations,
            timeout=60,
            seed=seed,
            stop=stop,
        )


def draw(result: AbcResult, path: Path) -> None:
    """Marginal posteriors on the prior's range, with the default parameters marked."""
    import matplotlib.pyplot as plt

    prior = simulators.load("tumor_spheroid").prior
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained")
    for j, (name, panel) in enumerate(zip(result.names, axes.flat, strict=False)):
        bins = np.linspace(np.log10(prior.low[j]), np.log10(prior.high[j]), 31)
        density = {"weights": result.weight, "density": True, "color": "C0", "alpha": 0.6}
        panel.hist(np.log10(result.theta[:, j]), bins, label="ABC posterior", **density)
        panel.axhline(1 / np.ptp(bins), color="0.5", linestyle=":", label="prior")
        panel.axvline(np.log10(DEFAULTS[name]), color="C3", label="default")
        low, high = np.log10(result.quantile(np.array([0.025, 0.975]))[:, j])
        panel.plot([low, high], [0, 0], color="k", linewidth=4, label="central 95 %")
        panel.set(title=name.replace("_", " "), xlabel="log10", yticks=[], xlim=(bins[0], bins[-1]))
        panel.title.set_fontsize(9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(handles, labels, loc="center", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run, draw and print."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tumor_abc")
    result = infer(folder)
    draw(result, folder / "posterior.png")
    low, middle, high = result.quantile(np.array([0.025, 0.5, 0.975]))
    print(f"{len(result.epsilon)} generations, epsilon {result.epsilon[-1]:.0f}")
    print(f"simulations: {result.simulations}")
    for j, name in enumerate(result.names):
        interval = f"{low[j]:9.3g} .. {high[j]:<9.3g}"
        print(f"{name:<32} default {DEFAULTS[name]:<8g} median {middle[j]:<9.3g} 95 % {interval}")


if __name__ == "__main__":
    main()
