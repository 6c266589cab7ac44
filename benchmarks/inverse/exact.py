"""Every method on every exact problem, by its number of passes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.inverse.methods import METHODS, TAUS, WITH_TAU, candidates, settings
from benchmarks.inverse.problems import CASES, Problem
from benchmarks.inverse.record import MeasuredLog
from benchmarks.inverse.scores import scores
from estimators.inverse import create

C2ST_PASSES = 40  # fewer are not compared by the classifier, which takes most of the time
VALIDATION_SEED = 900  # of the problems on which step sizes are chosen


@dataclass(frozen=True)
class CasePlan:
    """How much of everything.

    Attributes:
        seeds: problems of a case. measurements: of each. draws: for each measurement.
        passes: numbers of passes. pairs: measurements of each problem that C2ST compares.
        validation, validation_draws: measurements and draws by which step sizes are chosen.
    """

    seeds: int
    measurements: int
    draws: int
    passes: tuple[int, ...]
    pairs: int
    validation: int
    validation_draws: int


SMALL = {
    "mixture_2": CasePlan(3, 10, 250, (20, 100, 300), 4, 6, 150),
    "mixture_10": CasePlan(3, 10, 250, (20, 100, 300), 2, 6, 150),
    "mixture_2_learned": CasePlan(3, 10, 250, (100,), 4, 6, 150),
    "mixture_10_learned": CasePlan(3, 10, 250, (100,), 2, 6, 150),
    "fashion_downsample": CasePlan(1, 5, 100, (40,), 5, 2, 20),
    "fashion_blur": CasePlan(1, 5, 100, (40,), 5, 2, 20),
    "fashion_inpaint": CasePlan(1, 5, 100, (40,), 5, 2, 20),
}
FULL = {
    "mixture_2": CasePlan(10, 20, 1000, (20, 100, 300, 1000), 4, 20, 300),
    "mixture_10": CasePlan(10, 20, 1000, (20, 100, 300, 1000), 4, 20, 300),
    "mixture_2_learned": CasePlan(10, 20, 1000, (100,), 4, 20, 300),
    "mixture_10_learned": CasePlan(10, 20, 1000, (100,), 4, 20, 300),
    "fashion_downsample": CasePlan(5, 20, 300, (40, 100, 300), 4, 10, 100),
    "fashion_blur": CasePlan(5, 20, 300, (40, 100, 300), 4, 10, 100),
    "fashion_inpaint": CasePlan(5, 20, 300, (40, 100, 300), 4, 10, 100),
}


def run(case: str, plan: CasePlan, record: MeasuredLog, methods: tuple[str, ...] = METHODS) -> None:
    """Measure the methods on a case; what is recorded is not measured again."""
    fixed = replace(plan, seeds=0, passes=())  # more of these leaves the others as they are
    record.require(f"{case} ", repr(fixed))
    record.get(f"{case} exact {plan.seeds}", lambda: _floor(case, plan))
    for passes in plan.passes:
        for method in methods:
            chosen = tuned(case, method, passes, plan, record)
            for seed in range(plan.seeds):
                key = f"{case} {method} {passes} seed {seed}"
                found = record.get(
                    key,
                    lambda s=seed, m=method, p=passes, c=chosen: measure(case, m, p, s, plan, c),
                )
            print(
                f"{case} {method} {passes} {chosen} {np.mean(found['coverage']):.3f}",
                file=sys.stderr,
            )


def tuned(
    case: str, method: str, passes: int, plan: CasePlan, record: MeasuredLog
) -> dict[str, Any]:
    """Return step size and tau with the least sliced distance on validation measurements."""

    def value(extra: dict[str, Any]) -> float:
        key = f"{case} {method} {passes} validation {json.dumps(extra, sort_keys=True)}"
        found = record.get(key, lambda: _validate(case, method, passes, plan, extra))
        return float(np.mean(found["sliced"]))

    tried = candidates(method)
    best = tried[0] if len(tried) == 1 else min(tried, key=value)
    if method in WITH_TAU:
        best = min(({**best, "tau": tau} for tau in TAUS), key=value)
    return best


def _validate(
    case: str, method: str, passes: int, plan: CasePlan, extra: dict[str, Any]
) -> dict[str, Any]:
    problem = CASES[case](VALIDATION_SEED, plan.validation)
    return solved(problem, method, passes, plan.validation_draws, 0, extra, 0)


def measure(
    case: str, method: str, passes: int, seed: int, plan: CasePlan, extra: dict[str, Any]
) -> dict[str, Any]:
    """Return the scores of a method on the problem of a seed."""
    problem = CASES[case](100 * seed, plan.measurements)
    pairs = plan.pairs if passes >= C2ST_PASSES else 0
    return solved(problem, method, passes, plan.draws, seed, extra, pairs)


def solved(
    problem: Problem,
    method: str,
    passes: int,
    n: int,
    seed: int,
    extra: dict[str, Any],
    pairs: int,
) -> dict[str, Any]:
    """Return the scores of a method on a problem, with its cost."""
    solver = create(
        method, problem.learned or problem.prior, **{**settings(method, passes), **extra}
    )
    start = time.process_time()
    solution = solver.solve(problem.y, problem.operator, n, seed)
    seconds = time.process_time() - start
    found = scores(problem, solution.draws, problem.exact(2000, 7), pairs)
    return {
        "settings": extra,
        "passes": solution.passes,
        "gradients": solution.gradients,
        "seconds": seconds,
        **{key: float(value.mean()) for key, value in solution.diagnostics.items()},
        **found,
    }


def _floor(case: str, plan: CasePlan) -> dict[str, Any]:
    """Return the scores of exact draws."""
    found: dict[str, list[float]] = {}
    for seed in range(plan.seeds):
        problem = CASES[case](100 * seed, plan.measurements)
        draws = problem.exact(plan.draws, 11)
        one = scores(problem, draws, problem.exact(2000, 7), plan.pairs)
        found = {key: found.get(key, []) + values for key, values in one.items()}
    components = [p.components for p in problem.posteriors]
    return {**found, "components": components, "passes": 0.0, "gradients": 0.0, "seconds": 0.0}
