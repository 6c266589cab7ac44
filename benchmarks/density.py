"""How good are densities of few-step posteriors? One-step densities and surrogates against exact posteriors.

    one step      q(theta | x) of draws of one pass, by change of variables
    surrogate     a flow fitted to draws of ten passes, `estimators.distilled_density`
    flow          a spline flow trained on the simulations, for comparison

For each test set, with 2000 draws theta from q and the exact posterior p:

    error         median over the draws of |log q(theta | x) - log p(theta | x)|
    error_90      the same, 90 % quantile
    ess           effective sample size of p(theta) p(x | theta) / q(theta | x), as a share of the draws
    evidence      log of the mean weight minus the exact log p(x)

    python -m benchmarks.density                          both tasks, 4096 simulations; about 10 minutes of a core
    python -m benchmarks.density --tasks two_moons --steps 20000 --seeds 0 1 2

Prints one JSON object for each task, density and seed: medians over the test sets. What
`studies/paper/results/density.jsonl` has is its output.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

import simulators
from benchmarks.fit import TrainingSettings, fit
from estimators import Posterior
from estimators.distilled_density import distil
from estimators.importance import importance
from simulators import Simulator

DRAWS, GRID = 2000, 1000
PASSES = 10
CMPE = {"width": 128, "depth": 3, "dropout": 0.05, "bounds": "probit", "input_scale": 2.0}
FLOW = {"transforms": 3}
TASKS: dict[str, dict[str, Any]] = {"gaussian_linear": {"dim": 5}, "two_moons": {}}
Density = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


def log_evidence(task: str, simulator: Simulator, x: Mapping[str, np.ndarray]) -> float:
    """Return log p(x) of one observation: in closed form, or by the mean over a grid of the prior's box."""
    if task == "gaussian_linear":  # x ~ N(0, 2 s^2 I)
        variance = 2 * 0.1
        size = x["x"].size
        return float(-0.5 * (x["x"] @ x["x"] / variance + size * math.log(2 * math.pi * variance)))
    centres = (np.arange(GRID) + 0.5) * (2 / GRID) - 1
    theta = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    values = simulator.log_likelihood(theta, x)
    largest = values.max()
    return float(largest + np.log(np.exp(values - largest).mean()))


def densities(
    simulator: Simulator, budget: int, steps: int, seed: int
) -> Iterator[tuple[str, Density]]:
    """Train, and yield what draws from each density and evaluates it there."""
    rng = np.random.default_rng((seed, 0))
    theta = simulator.prior.sample(rng, budget)
    x = simulator.simulate_block(theta, rng)

    def trained(estimator: str, arguments: Mapping[str, Any], length: int) -> Posterior:
        settings = TrainingSettings(estimator, arguments, steps=length)
        return fit(settings, simulator.prior, theta, x, seed)[0]

    def of(posterior: Posterior, passes: int | None) -> Density:
        def drawn(one: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            values = posterior.sample_with_log_prob(one, DRAWS, sampling_steps=passes, seed=seed)
            return values[0].double().numpy(), values[1].double().numpy()

        return drawn

    posterior = trained("cmpe", CMPE, steps)
    yield "one step", of(posterior, 1)
    surrogate = distil(posterior, x, sampling_steps=PASSES, arguments=FLOW, seed=seed)
    yield "surrogate", of(surrogate, None)
    yield "flow", of(trained("nsf_autoregressive", FLOW, 2000), None)


def measure(task: str, budget: int, steps: int, tests: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of each density."""
    simulator = simulators.load(task, **TASKS[task])
    rng = np.random.default_rng((seed, 1))
    x = simulator.simulate_block(simulator.prior.sample(rng, tests), rng)
    sets = [{name: values[k] for name, values in x.items()} for k in range(tests)]
    exact = [log_evidence(task, simulator, one) for one in sets]
    for name, density in densities(simulator, budget, steps, seed):
        rows = []
        for one, known in zip(sets, exact, strict=True):
            draws, log_q = density(one)
            log_prior = simulator.prior.log_prob(draws)
            log_likelihood = simulator.log_likelihood(draws, one)
            gap = log_q - (log_prior + log_likelihood - known)
            found = importance(log_q, log_prior, log_likelihood)
            quantiles = np.quantile(np.abs(gap), (0.5, 0.9))
            rows.append((*quantiles, found.ess / DRAWS, abs(found.log_evidence - known)))
        error, error_90, ess, evidence = np.median(rows, axis=0)
        yield {
            "task": task,
            "density": name,
            "budget": budget,
            "steps": steps,
            "tests": tests,
            "seed": seed,
            "error": round(float(error), 3),
            "error_90": round(float(error_90), 3),
            "ess": round(float(ess), 3),
            "evidence": round(float(evidence), 3),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8000, help="of the consistency model")
    parser.add_argument("--tests", type=int, default=20, help="test sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for task in given.tasks:
        for seed in given.seeds:
            for row in measure(task, given.budget, given.steps, given.tests, seed):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
