"""The tumour spheroid at the default observation: pyABC alone, ABC here, and a network here.

    python -m benchmarks.abc [--size small|full] [--seed 0] [--only NAMES] [--out FILE]

The observation is the mean of 100 simulations at the default parameters. `pyabc` is pyABC as it comes, with its
own sampler on all cores; `abc` the same algorithm, distance and number of simulations on the workers here;
`network` is the configuration `configs/tumor.yaml` with as many training simulations, and `--size` sets them.

For each: simulations and wall seconds (of the network by part), how many defaults lie in the central 95 %
intervals, the mean width of these intervals as a share of the prior's range on a log scale, and the distance
between the observation and simulations at posterior draws: its median over `CHECKS` draws, beside that of
simulations at the default parameters themselves. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyabc

import simulators
from examples.tumor_abc import DEFAULTS, REPLICATES, replicates
from pipeline import config as configuration
from pipeline import stages
from pipeline.abc import abc_smc, standardised_squares
from pipeline.abc.model import AbcModel, AbcPrior, SimulationFailed
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop

CHECKS = 40  # simulations at posterior draws
CONFIG = Path(__file__).parents[1] / "configs" / "tumor.yaml"
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Size:
    """How much each method may use."""

    simulations: int
    population: int
    steps: int


SIZES = {"small": Size(600, 60, 1_500), "full": Size(10_000, 200, 30_000)}


@dataclass(frozen=True)
class TumorProblem:
    """The simulator, what was observed, and the distance to it."""

    model: Any
    x: Outputs
    distance: Callable[[Outputs, Outputs], float]

    @classmethod
    def default(cls) -> TumorProblem:
        """Return the tumour at its default parameters."""
        model = simulators.load("tumor_spheroid")
        stored = replicates(model, REPLICATES)
        x = {name: values.mean(axis=0) for name, values in stored.items()}
        return cls(model, x, standardised_squares(stored))

    def distances(self, theta: np.ndarray) -> list[float]:
        """Return the distances of simulations at theta (n, D) to the observation, failed ones left out."""
        found = []
        for seed, row in enumerate(theta):
            try:
                values = self.model.simulate(row, np.random.default_rng(seed))
            except (RuntimeError, ValueError, TimeoutError):
                continue
            found.append(self.distance(values, self.x))
        return found

    def told(self, theta: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
        """Return how good weighted draws (n, D) are."""
        rng = np.random.default_rng(0)
        even = theta[rng.choice(len(theta), 2000, p=weight)]
        low, high = np.quantile(even, [0.025, 0.975], axis=0)
        default = np.array([DEFAULTS[name] for name in self.model.prior.names])
        span = np.log10(self.model.prior.high / self.model.prior.low)
        return {
            "defaults_inside": int(((low <= default) & (default <= high)).sum()),
            "mean_width": round(float((np.log10(high / low) / span).mean()), 4),
            "median_distance": round(float(np.median(self.distances(even[:CHECKS]))), 1),
            "median": {n: float(m) for n, m in zip(DEFAULTS, np.median(even, axis=0), strict=True)},
        }


class TumorModel(pyabc.Model):
    """The tumour for pyABC alone, which ends at an exception: one that fails is infinitely far away."""

    def __init__(self, model: AbcModel, x: Outputs) -> None:
        super().__init__("tumor")
        self.model, self.far = model, {name: np.full_like(v, 1e12) for name, v in x.items()}

    def sample(self, pars: Any) -> Outputs:
        try:
            return self.model.sample(pars)
        except SimulationFailed:
            return self.far


def pyabc_alone(problem: TumorProblem, size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Run pyABC with its own sampler."""
    prior = AbcPrior(problem.model.prior)
    smc = pyabc.ABCSMC(
        TumorModel(AbcModel(problem.model, None), problem.x),
        prior,
        problem.distance,
        population_size=size.population,
        sampler=pyabc.MulticoreEvalParallelSampler(os.cpu_count()),
    )
    np.random.seed(seed)
    began = time.perf_counter()
    smc.new(f"sqlite:///{folder / 'pyabc.db'}", problem.x)
    history = smc.run(max_total_nr_simulations=size.simulations)
    seconds = time.perf_counter() - began
    frame, weight = history.get_distribution()
    theta = prior.coordinates.natural(frame[list(prior.coordinates.labels)].to_numpy())
    cost = {"simulations": int(history.total_nr_simulations), "seconds": round(seconds, 1)}
    return cost | {"generations": history.max_t + 1} | problem.told(theta, weight)


def ours_by_abc(problem: TumorProblem, size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Run ABC here."""
    began = time.perf_counter()
    result = abc_smc(
        problem.model,
        problem.x,
        folder / "abc",
        distance=problem.distance,
        population=size.population,
        generations=100,
        simulations=size.simulations,
        timeout=60,
        seed=seed,
    )
    seconds = time.perf_counter() - began
    cost = {"simulations": sum(result.simulations.values()), "seconds": round(seconds, 1)}
    told = problem.told(result.theta, result.weight)
    return cost | {"generations": len(result.epsilon)} | told


def ours_amortised(problem: TumorProblem, size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Simulate, train, and draw here; a further observation costs the draws alone."""
    words = [f"budget={size.simulations}", "test=0", f"train.steps={size.steps}", f"seed={seed}"]
    run, spent = RunDirectory(folder / "network"), {}
    config = stages.configure(run, CONFIG, [*words, "track.live=false", "simulate.workers=null"])
    configuration.save(config, run)
    marks = [time.perf_counter()]
    with run.lock():
        stages.simulate(config, run, Stop())
        marks.append(time.perf_counter())
        stages.train(config, run, Stop())
        marks.append(time.perf_counter())
    posterior = Results(run, latest_training(run)).load()
    x = {name: np.asarray(values)[None] for name, values in problem.x.items()}
    theta = posterior.sample(x, 2000, seed=seed)[0].cpu().numpy().astype(float)
    marks.append(time.perf_counter())
    for part, seconds in zip(("simulate", "train", "draw"), np.diff(marks).tolist(), strict=True):
        spent[part] = round(seconds, 2)
    told = problem.told(theta, np.full(len(theta), 1 / len(theta)))
    seconds = round(sum(spent.values()), 1)
    return {"simulations": size.simulations, "seconds": seconds, "parts": spent} | told


METHODS = {"pyabc": pyabc_alone, "abc": ours_by_abc, "network": ours_amortised}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(METHODS), help="names, with commas")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    problem, size = TumorProblem.default(), SIZES[asked.size]
    default = np.array([[DEFAULTS[name] for name in problem.model.prior.names]])
    at_default = float(np.median(problem.distances(np.repeat(default, CHECKS, axis=0))))
    result: dict[str, Any] = {"size": asked.size, "seed": asked.seed, "cores": os.cpu_count()}
    result |= {"load": os.getloadavg()[0], "median_distance_at_default": round(at_default, 1)}
    for name in asked.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = METHODS[name](problem, size, asked.seed, Path(folder))
    text = json.dumps(result)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
