"""Inverse problems: `sbiflow invert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.text import shown
from pipeline.cli.app import Json, RunOption, app, existing_run, print_result
from pipeline.errors import UsageError


@app.command()
def invert(
    output: RunOption,
    operator: Annotated[str, typer.Option(help="Its name, module:attribute or file.py:attribute.")],
    obs: Annotated[Path | None, typer.Option(help="Measurement y: .npz or .npy.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the draws, .npz.")] = None,
    test: Annotated[
        int | None, typer.Option(min=1, help="Instead: test simulations to measure and solve.")
    ] = None,
    method: Annotated[str, typer.Option(help="See `sbiflow list solvers`.")] = "cm_smc",
    n: Annotated[int, typer.Option("-n", min=1, help="Draws for each measurement.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]... [operator.key=value]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw given y = A(theta) + noise from a prior that was trained without y."""
    from pipeline.events import recorder
    from pipeline.invert import problem as problems
    from pipeline.invert import stage
    from pipeline.stop import stop_on_signals

    if (obs is None) == (test is None) or (obs is None) != (out is None):
        raise UsageError("give --obs with --out, or --test")
    target = existing_run(output)
    problem = problems.InverseProblem.of(target, operator, method, words or ())
    with stop_on_signals() as stop, stop.at_once("invert"):
        if obs is not None and out is not None:
            y = problems.read_measurement(obs)
            shape = stage.invert(problem, y, n, seed, out)
            print(shown(f"{out}: theta {shape}"))
            return
        assert test is not None
        result = stage.measure(problem, test, n, seed, recorder(target, "invert"))
    lines = [
        f"{name:14} {one['mean']:.4g}" + ("" if one["sem"] is None else f" ± {one['sem']:.2g}")
        for name, one in result["metrics"].items()
    ]
    print_result(result, as_json, "\n".join([*lines, f"{'passes':14} {result['passes']:.0f}"]))
