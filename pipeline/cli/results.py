"""What a run gives, and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.text import shown
from pipeline.cli.app import (
    Json,
    RunOption,
    app,
    existing_run,
    is_run,
    print_result,
)
from pipeline.errors import UsageError


@app.command()
def sample(
    output: RunOption,
    obs: Annotated[
        Path,
        typer.Option(
            help="Observation: .npz, .npy, .csv, .json or .nc with the simulator's outputs."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write the draws, .npz.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Draws.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    reweight: Annotated[
        bool, typer.Option("--reweight", help="Weight by prior and likelihood, if there is one.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Recalibrated, as by evaluate.calibrated=true.")
    ] = False,
    words: Annotated[list[str] | None, typer.Argument(metavar="[sampling_steps=N]")] = None,
) -> None:
    """Draw from the latest posterior for an observation."""
    from pipeline.infer import sample as sampling
    from pipeline.infer.observation import read_observation
    from pipeline.stop import stop_on_signals

    target, sampling_steps = existing_run(output), None
    for word in words or ():
        sampling_steps = sampling.read_sampling_steps(word)
    with stop_on_signals() as stop, stop.at_once("sample"):
        observation = read_observation(obs)
        shape = sampling.sample(
            target, observation, n, sampling_steps, seed, out, reweight, calibrated
        )
    print(shown(f"{out}: theta {shape}"))


@app.command()
def infer(
    output: RunOption,
    obs: Annotated[Path, typer.Option(help="One or several: .npz, .npy, .csv, .json or .nc.")],
    n: Annotated[int, typer.Option("-n", min=2, help="Posterior draws.")] = 10_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: within the run.")
    ] = None,
    training: Annotated[
        str | None, typer.Option(help="Which training; default: the latest.")
    ] = None,
    simulations: Annotated[
        int | None,
        typer.Option(min=0, help="Simulations from the posterior; default: 200, if quick."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    words: Annotated[list[str] | None, typer.Argument(metavar="[sampling_steps=N]")] = None,
    as_json: Json = False,
) -> None:
    """Answer for an observation: draws, a table, checks of model and posterior, and a page."""
    from pipeline.answer.stage import Question
    from pipeline.answer.stage import infer as answer
    from pipeline.infer.observation import read_observation
    from pipeline.infer.sample import read_sampling_steps
    from pipeline.stop import stop_on_signals

    target, sampling_steps = existing_run(output), None
    for word in words or ():
        sampling_steps = read_sampling_steps(word)
    question = Question(target, n, training, sampling_steps, simulations, seed)
    with stop_on_signals() as stop:
        answers = answer(question, read_observation(obs), out, stop)
    values = [{"page": f"{one.path}/answer.html", "parameters": one.rows(),
               "checks": [vars(check) for check in one.checks]} for one in answers]  # fmt: skip
    print_result(values, as_json, "\n\n".join(map(str, answers)))


@app.command()
def refine(
    output: RunOption,
    obs: Annotated[Path, typer.Option(help="One or several: .npz, .npy, .csv, .json or .nc.")],
    simulations: Annotated[int, typer.Option(min=1, help="New simulations, a total.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that share them.")] = 2,
    level: Annotated[
        float, typer.Option(min=1e-6, max=0.2, help="Share of the posterior left out by a round.")
    ] = 1e-3,
    n: Annotated[int, typer.Option("-n", min=2, help="Posterior draws.")] = 10_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: within the run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    as_json: Json = False,
) -> None:
    """Simulate and train where the posterior for an observation has its mass, round by round."""
    from pipeline.answer.stage import Question
    from pipeline.infer.observation import read_observation
    from pipeline.refine.answer import refined, told
    from pipeline.refine.stage import Refinement
    from pipeline.stop import stop_on_signals

    target = existing_run(output)
    asked = Refinement(Question(target, n, seed=seed), simulations, rounds, level)
    with target.lock(), stop_on_signals() as stop:
        done, answers = refined(asked, read_observation(obs), out, stop)
    values = [{"digest": one.digest, "share": one.share, "rows": one.rows} for one in done]
    print_result(values, as_json, "\n\n".join([told(done), *map(str, answers)]))


@app.command()
def report(output: RunOption) -> None:
    """Write one self-contained HTML page."""
    from pipeline.report.stage import report as write
    from pipeline.stop import stop_on_signals

    with stop_on_signals() as stop, stop.at_once("report"):
        path = write(existing_run(output))
    print(shown(path))


@app.command()
def status(output: RunOption, as_json: Json = False) -> None:
    """Simulations done, failed and missing, rate, ETA, slowest, digest; the batch jobs."""
    from pipeline import show
    from pipeline.config import load
    from pipeline.submit import stage as submission

    target = existing_run(output)
    values = show.status_values(load(target), target)
    values["jobs"] = submission.states(target)
    print_result(values, as_json, show.status(values) + show.jobs(values["jobs"]))


@app.command()
def failures(output: RunOption, as_json: Json = False) -> None:
    """List the simulations that failed, timed out or gave NaN, with parameters and reason."""
    from pipeline import show

    values = show.failure_values(existing_run(output))
    print_result(values, as_json, show.failures(values))


@app.command()
def ui(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs to compare.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--run", help="Run directory.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Show runs on the pages of MLflow, on 127.0.0.1."""
    from pipeline.progress import log
    from pipeline.track.ui import ui as serve

    shown = [*(runs or ()), *([output] if output else ())]
    if not shown:
        raise UsageError("name the runs to show: `sbiflow ui runs/*` or `sbiflow ui -o RUN`")
    if len(shown) > 1 and (others := [path for path in shown if not is_run(path)]):
        shown = [path for path in shown if path not in others] or shown
        log(f"ui: no runs, and not shown: {', '.join(map(str, others))}")
    serve([existing_run(path) for path in dict.fromkeys(shown)], port)


@app.command(name="list")
def list_(
    what: Annotated[
        str, typer.Argument(help="simulators, estimators, solvers, metrics or backends")
    ],
) -> None:
    """List what is built in or installed."""
    import importlib

    tables = {
        "simulators": "simulators",
        "estimators": "estimators",
        "solvers": "estimators.inverse",
        "metrics": "evaluation",
        "backends": "cluster",
    }
    if what not in tables:
        raise UsageError(f"{what!r}: valid are {', '.join(tables)}")
    print("\n".join(importlib.import_module(tables[what]).available()))
