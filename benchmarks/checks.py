"""How often the checks of an answer flag observations that are right, and such that are not.

    python -m benchmarks.checks --cases 200 --local 40

Two tasks: `levels` has its exact posterior, so that nothing but the checks is measured; the posterior of
`oscillation` is trained once. Observations are simulated from the prior; a part of them is then changed: one
output is moved by five standard deviations of the noise, the noise is twice as wide, or a parameter lies outside
of the prior. For the local check the posterior itself is also narrowed by 20 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.scale import on_scale
from pipeline.answer.check import DOUBT, local_check, model_check, predictive
from pipeline.answer.evidence import Evidence, SimulatedRows
from pipeline.answer.stage import Question
from sbiflow import LogUniform, Normal, Run, Uniform, simulator

TIMES = np.linspace(0, 5, 20)
NOISE = 0.1
SIMULATIONS, DRAWS = 200, 400
BUDGET, TEST, STEPS = 2000, 300, 3000

Outputs = dict[str, np.ndarray]


def oscillation_(frequency: float, damping: float, rng: Any, noise: float = NOISE) -> Outputs:
    signal = np.exp(-damping * TIMES) * np.cos(frequency * TIMES)
    return {"x": signal + noise * rng.normal(size=len(TIMES))}


def levels_(a: float, b: float, c: float, rng: Any, noise: float = NOISE) -> Outputs:
    """Four measurements of each of three levels."""
    return {"x": np.repeat([a, b, c], 4) + noise * rng.normal(size=12)}


@simulator(prior={"frequency": Uniform(0.5, 3.0), "damping": LogUniform(0.05, 1.0)})
def oscillation(frequency: float, damping: float, rng: Any) -> Outputs:
    return oscillation_(frequency, damping, rng)


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1), "c": Normal(0, 1)})
def levels(a: float, b: float, c: float, rng: Any) -> Outputs:
    return levels_(a, b, c, rng)


TASKS: dict[str, tuple[Any, Callable[..., Outputs], Callable[[np.ndarray], np.ndarray]]] = {
    "oscillation": (oscillation, oscillation_, lambda theta: np.array([4.5, theta[1]])),
    "levels": (levels, levels_, lambda theta: np.array([6.0, theta[1], theta[2]])),
}


class ExactLevels:
    """The posterior of `levels`: each level has a normal prior and four measurements."""

    names, x_shapes, sampling_steps = ("a", "b", "c"), {"x": (12,)}, None

    def summary(self, x: Mapping[str, np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x["x"]))

    def sample(
        self, x: Mapping[str, np.ndarray], n: int, seed: int = 0, **options: Any
    ) -> torch.Tensor:
        precision = 1 + 4 / NOISE**2
        mean = self.summary(x).double().view(-1, 3, 4).sum(-1) / NOISE**2 / precision
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(mean), n, 3, generator=rng, dtype=torch.float64)
        return mean[:, None] + noise / precision**0.5


@dataclass
class CheckedCase:
    """A posterior with simulations to compare with, as `Question` has them."""

    posterior: Any
    evidence: Evidence
    scales: tuple[str, ...]


def exact_levels() -> CheckedCase:
    """Return the exact posterior of `levels` with simulations made here."""

    def simulations(count: int, seed: int) -> SimulatedRows:
        rng = np.random.default_rng(seed)
        theta = levels.prior.sample(rng, count)
        x = np.stack([levels_(*row, rng)["x"] for row in theta])
        return SimulatedRows(theta, {"x": x.astype(np.float32)})

    return CheckedCase(
        ExactLevels(), Evidence(simulations(BUDGET, 1), simulations(TEST, 2)), ("linear",) * 3
    )


class Narrowed:
    """A posterior whose draws lie nearer to their mean.

    Arguments:
        posterior: the posterior.
        factor: of the distances.
    """

    def __init__(self, posterior: Any, factor: float) -> None:
        self.posterior, self.factor = posterior, factor

    def summary(self, x: Mapping[str, np.ndarray]) -> Any:
        return self.posterior.summary(x)

    def sample(self, x: Mapping[str, np.ndarray], n: int, **options: Any) -> Any:
        draws = self.posterior.sample(x, n, **options)
        mean = draws.mean(1, keepdim=True)
        return mean + self.factor * (draws - mean)


def observe(task: str, change: str, rng: np.random.Generator) -> Outputs:
    """Return an observation of a task under a change: right, outlier, noise or outside."""
    model, plain, outside = TASKS[task]
    theta = model.prior.sample(rng, 1)[0]
    if change == "outside":
        theta = outside(theta)
    x = plain(*theta, rng, noise=2 * NOISE if change == "noise" else NOISE)
    if change == "outlier":
        x["x"][rng.integers(len(x["x"]))] += 5 * NOISE * rng.choice([-1, 1])
    return x


def flags(question: Any, task: str, change: str, seed: int, local: bool) -> dict[str, bool]:
    """Return which checks have doubts about one observation; the local one is done if asked for."""
    rng = np.random.default_rng([seed, len(change)])
    x = {k: v[None].astype(np.float32) for k, v in observe(task, change, rng).items()}
    draws = question.posterior.sample(x, DRAWS, seed=seed).cpu().numpy()[0].astype(float)
    _, plain, _ = TASKS[task]
    rows = [plain(*theta, rng)["x"] for theta in draws[:SIMULATIONS]]
    found = {
        "model": model_check(question.evidence, question.posterior, x),
        "predictive": predictive(x, {"x": np.stack(rows)}, {})[0],
    }
    if local and change in ("right", "narrowed"):
        posterior: Any = question.posterior
        if change == "narrowed":
            posterior = Narrowed(posterior, 0.8)
        at = on_scale(posterior.sample(x, DRAWS, seed=seed).cpu().numpy()[0], question.scales)
        found["local"] = local_check(
            question.evidence, posterior, x, at, question.scales, None, seed
        )
    return {name: check.verdict == DOUBT for name, check in found.items()}


def trained(task: str, folder: Path) -> Question:
    """Return the trained posterior of a task."""
    run = Run(
        folder / task, simulator=TASKS[task][0], budget=BUDGET, test=TEST, estimator="nsf",
        train={"steps": STEPS, "learning_rate": 1e-3},
    )  # fmt: skip
    run.simulate()
    run.train()
    return Question(run._directory, draws=DRAWS)


def measure(task: str, cases: int, local: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return the share of flagged cases by change and check; `local` cases have the local check."""
    question = exact_levels() if task == "levels" else trained(task, folder)
    result = {}
    for change in ("right", "outlier", "noise", "outside", "narrowed"):
        count = local if change == "narrowed" else cases
        found = [flags(question, task, change, seed, seed < local) for seed in range(count)]
        result[change] = {
            name: float(np.mean([f[name] for f in found if name in f])) for name in found[0]
        }
        print(task, change, json.dumps(result[change]), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--local", type=int, default=40, help="cases of the local check")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, help="folder of the runs; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for task in asked.tasks:
            measure(task, asked.cases, asked.local, asked.out or Path(temporary))


if __name__ == "__main__":
    main()
