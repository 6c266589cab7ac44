"""Inverse problems: draws for a measurement, and how good a method is on the test simulations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import load
from pipeline.errors import UsageError
from pipeline.evaluate.simulations import open_test_store
from pipeline.events import Recorder
from pipeline.files import write_arrays, write_whole, writing
from pipeline.imported.arrays import check_out
from pipeline.inversions import Inversion
from pipeline.invert.problem import InverseProblem
from pipeline.progress import duration, log
from pipeline.report import page
from pipeline.report.inversions import pictures
from pipeline.store import to_numpy

LEVEL = 0.9  # of the intervals


def invert(problem: InverseProblem, y: np.ndarray, n: int, seed: int, out: Path) -> tuple[int, ...]:
    """Draw parameters for one or several measurements and write them, and a page with pictures beside them.

    The file has `theta`, `names`, `y`, `passes`, and what the method says about each measurement.

    Arguments:
        problem: prior, operator and method.
        y: one measurement, or several along a first axis.
        n: draws for each. seed: of the draws.
        out: the file, .npz; the page is called the same with the ending .html.

    Returns:
        The shape of theta, (n, D) for one measurement, (B, n, D) for several.

    Raises:
        UsageError: prior, operator, method and measurement do not fit each other.
        PipelineError: the operator gives what is not finite.
    """
    check_out(out)
    measured, single = problem.measurements(y)
    solution, seconds = problem.solve(measured, n, seed)
    theta = solution.draws.cpu().numpy()
    diagnostics = {key: values.cpu().numpy() for key, values in solution.diagnostics.items()}
    drawn = theta[0] if single else theta
    arrays = {"theta": drawn, "names": np.array(problem.names), "y": y, **diagnostics}
    arrays |= {"passes": np.array(solution.passes), "gradients": np.array(solution.gradients)}
    write_arrays(out, arrays)
    told = ", ".join(f"{key} {float(values.mean()):.3g}" for key, values in diagnostics.items())
    log(
        f"invert: {problem.method}, {solution.passes:.0f} passes a draw, {duration(seconds)}"
        + (f"; {told}" if told else "")
    )
    _write_page(problem, measured.cpu().numpy(), theta, out.with_suffix(".html"))
    return arrays["theta"].shape


def _write_page(problem: InverseProblem, y: np.ndarray, theta: np.ndarray, path: Path) -> None:
    figures = pictures(y, theta, problem.shape, problem.names)
    title = f"{problem.operator_name} by {problem.method}"
    lead = (
        f"{theta.shape[1]} draws for each of {len(theta)} measurements, prior {problem.training}."
    )
    section = page.section("Draws", page.figures(figures))
    with writing(path):
        write_whole(path, page.page(title, lead, [], [section]))


def measure(
    problem: InverseProblem, count: int, n: int, seed: int, record: Recorder
) -> dict[str, Any]:
    """Measure a method on the first test simulations, whose parameters are the truth; or find it measured.

    Arguments:
        problem: prior, operator and method.
        count: test simulations. n: draws for each. seed: of noise and draws.
        record: takes the event for the journal.

    Returns:
        The content of `inversions/KEY/metrics.json`.

    Raises:
        UsageError: fewer test simulations than `count`, or parts that do not fit each other.
    """
    store = open_test_store(problem.run, load(problem.run).test)
    ids, theta, _, _ = to_numpy(store, load(problem.run).test)
    if count > len(ids):
        raise UsageError(f"--test {count}: the run has {len(ids)} test simulations that are ok")
    others = {
        "test_digest": store.digest(load(problem.run).test),
        "test": count,
        "n": n,
        "seed": seed,
    }
    inversion = Inversion(problem.run, problem.key(others))
    if (known := inversion.metrics()) is not None:
        log(f"invert: {inversion.key} is done")
        return known
    import torch

    truth = torch.as_tensor(theta[:count], dtype=torch.float32, device=problem.prior.shift.device)
    problem.measurements(problem.operator(truth[:1], seed).cpu().numpy())
    y = problem.operator(truth, seed)
    solution, seconds = problem.solve(y, n, seed)
    values = _metrics(problem, truth, y, solution.draws)
    content = {
        **problem.identity(),
        **others,
        "shape": list(problem.shape),
        "metrics": {key: _mean(value) for key, value in values.items()},
        "diagnostics": {key: _mean(v.cpu().numpy()) for key, v in solution.diagnostics.items()},
        "passes": solution.passes,
        "gradients": solution.gradients,
        "seconds": seconds / count,
    }
    arrays = {"ids": ids[:count], "theta": theta[:count], "y": y.cpu().numpy()}
    result = inversion.write(content, arrays | {"draws": solution.draws.cpu().numpy()})
    numbers = {key: value["mean"] for key, value in result["metrics"].items()}
    record(
        {
            "event": "inverted",
            "inversion": inversion.key,
            "training": problem.training,
            "metrics": numbers,
        }
    )
    log(f"invert: {inversion.key}, {duration(seconds)}")
    return result


def _metrics(problem: InverseProblem, truth: Any, y: Any, draws: Any) -> dict[str, np.ndarray]:
    """Return numbers for each test simulation, each (B,)."""
    b, n, size = draws.shape
    low, high = draws.quantile((1 - LEVEL) / 2, dim=1), draws.quantile((1 + LEVEL) / 2, dim=1)
    model = problem.operator.noise_model
    each = model.agreement(y.repeat_interleave(n, 0), problem.operator.A(draws.view(-1, size)))
    found = {
        "rmse_of_mean": (draws.mean(1) - truth).square().mean(1).sqrt(),
        "rmse_of_draws": (draws - truth[:, None]).square().mean((1, 2)).sqrt(),
        "coverage_90": ((truth >= low) & (truth <= high)).float().mean(1),
        model.agreement_name: each.float().view(b, n).mean(1),
    }
    return {key: value.detach().cpu().numpy() for key, value in found.items()}


def _mean(values: np.ndarray) -> dict[str, float | None]:
    """Return mean and standard error over test simulations."""
    several = len(values) > 1
    sem = float(values.std(ddof=1) / math.sqrt(len(values))) if several else None
    return {"mean": float(values.mean()), "sem": sem}
