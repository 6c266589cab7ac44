"""The stages of a run, each a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.app import (
    ConfigArgument,
    ConfigOption,
    Json,
    RunOption,
    Words,
    app,
    folder_run,
    is_run,
    open_run,
    print_result,
)
from pipeline.errors import UsageError


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="Configuration, YAML; not for a run that exists."),
    ] = None,
    words: Words = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--run", help="Run directory; default: runs/NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """All stages: simulate, train, evaluate, report, track. Skips what is complete.

    A run that exists knows its configuration: `sbiflow run -o RUN`, with `key=value` to change it.
    """
    from pipeline import show, stages
    from pipeline.config import build, override, read
    from pipeline.stop import stop_on_signals

    words = words or []
    if config and output and is_run(output) and not config.exists() and "=" in str(config):
        config, words = None, [str(config), *words]
    if output is None and config is not None:
        output = Path("runs") / build(override(read(config), words)).name
    if output is None or (config is None and not is_run(output)):
        raise UsageError("give a configuration, or by -o a run that exists")
    settings, target = open_run(output, config, words)
    with target.lock(), stop_on_signals() as stop:
        result = stages.run(settings, target, stop)
    print_result(result, as_json, show.summary(settings, target, result))


@app.command()
def check(config: ConfigArgument, words: Words = None, as_json: Json = False) -> None:
    """Build everything a run needs, once: simulator, store, estimator, metrics. Writes nothing."""
    from pipeline import config as configuration
    from pipeline import show
    from pipeline.plan import check as checking

    settings = configuration.build(configuration.override(configuration.read(config), words or ()))
    result = checking.check(settings)
    print_result(show.check_values(result), as_json, show.check(settings, result))
    if result.problems:
        raise UsageError("; ".join(result.problems))


@app.command()
def plan(
    output: RunOption,
    words: Words = None,
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Simulations at a time; default: as asked for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would do and cost, and what would limit so many workers. Writes nothing."""
    from pipeline import show
    from pipeline.plan import stage as planning
    from pipeline.study import show as showing
    from pipeline.study.results import curves_of

    settings, target = open_run(output, config, words)
    result = planning.plan(settings, target, workers)
    result["learning_curves"] = curves_of(target)
    text = [show.plan(target, result), *showing.curves(result["learning_curves"])]
    print_result(result, as_json, "\n".join(text))


@app.command()
def simulate(
    output: RunOption,
    words: Words = None,
    config: ConfigOption = None,
    retry: Annotated[
        str | None, typer.Option(help="Rerun rows: failed, timeout, invalid or all.")
    ] = None,
    leases: Annotated[
        bool, typer.Option("--leases", help="Without Ray, as one of many processes on one run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the simulations up to the budget (a total)."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals

    if retry not in (None, "failed", "timeout", "invalid", "all"):
        raise UsageError(f"--retry {retry!r}: valid are failed, timeout, invalid, all")
    settings, target = open_run(output, config, words)
    with target.lock(shared=leases), stop_on_signals() as stop:
        if leases:
            stages.simulate_shared(settings, target, stop, retry)
        else:
            with stages.tracked(settings, target):
                stages.simulate(settings, target, stop, retry)
    status_ = show.status_values(settings, target)
    print_result(status_, as_json, show.status(status_))


@app.command(name="import")
def import_(
    output: RunOption,
    theta: Annotated[Path, typer.Option(help="Parameters (n, D): .npy, .csv or .npz.")],
    x: Annotated[Path, typer.Option("--x", help="Outputs (n, ...): .npy, .csv or .npz.")],
    names: Annotated[str | None, typer.Option(help="Names of the parameters: a,b,...")] = None,
    prior: Annotated[Path | None, typer.Option(help="What theta was drawn from, YAML.")] = None,
    test: Annotated[int, typer.Option(min=0, help="Rows to test on, drawn at random.")] = 100,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Make a run of ready-made simulations; then train, evaluate, sample, report."""
    from pipeline import show, stages
    from pipeline.config import read
    from pipeline.imported import stage as ready_made
    from pipeline.plan.requirements import require

    listed = [name.strip() for name in names.split(",")] if names else ()
    pairs = ready_made.read_pairs(theta, x, listed, read(prior) if prior else None)
    target = folder_run(output)
    settings = ready_made.configure(pairs, target, test, words or ())
    require(settings)
    with target.lock():
        stages.import_simulations(settings, target, pairs)
    status_ = show.status_values(settings, target)
    print_result(status_, as_json, show.status(status_))


@app.command()
def train(
    output: RunOption, words: Words = None, config: ConfigOption = None, as_json: Json = False
) -> None:
    """Train the posterior estimator on the budget; continues where it was stopped."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals

    settings, target = open_run(output, config, words)
    with target.lock(), stop_on_signals() as stop, stages.tracked(settings, target):
        result = stages.train(settings, target, stop)
    print_result(show.plain(result), as_json, show.training(result))


@app.command()
def evaluate(
    output: RunOption, words: Words = None, config: ConfigOption = None, as_json: Json = False
) -> None:
    """Measure the latest posterior on the test simulations."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals

    settings, target = open_run(output, config, words)
    with target.lock(), stop_on_signals() as stop, stages.tracked(settings, target):
        result = stages.evaluate(settings, target, stop)
    print_result(result, as_json, show.metrics(result))


def _trained_weighted(settings: Any, target: Any, key: str, stop: Any) -> str:
    """Train on the rows of an ABC run and return the folder of the run that has the posterior."""
    from pipeline.refine.weighted import train_weighted

    return str(train_weighted(settings, target, key, stop).run.path)


@app.command()
def abc(
    output: RunOption,
    obs: Annotated[Path, typer.Option(help="Observation: .npz with the simulator's outputs.")],
    population: Annotated[int | None, typer.Option(min=2, help="Draws per generation.")] = None,
    generations: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    simulations: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    distance: Annotated[
        str | None, typer.Option(help="adaptive, euclidean, learned or package.module:function.")
    ] = None,
    proposal: Annotated[
        str | None, typer.Option(help="Of the first generation: prior or posterior.")
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train on these simulations and the run's, weighted.")
    ] = False,
    words: Words = None,
    config: ConfigOption = None,
    as_json: Json = False,
) -> None:
    """Approximate Bayesian computation for one observation; continues where it was stopped."""
    from pipeline import show, stages
    from pipeline.infer.observation import read_observation
    from pipeline.stop import stop_on_signals

    named = {"population": population, "generations": generations, "simulations": simulations,
             "distance": distance, "proposal": proposal}  # fmt: skip
    asked = [f"abc.{name}={value}" for name, value in named.items() if value is not None]
    settings, target = open_run(output, config, [*(words or ()), *asked])
    observation = read_observation(obs)
    with target.lock(), stop_on_signals() as stop, stages.tracked(settings, target):
        result = stages.abc(settings, target, observation, stop)
        if train:
            result = result | {"trained": _trained_weighted(settings, target, result["key"], stop)}
    print_result(result, as_json, show.abc(result))
