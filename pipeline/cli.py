"""The `sbiflow` command: thin; every command calls one stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.run import Run

app = typer.Typer(
    name="sbiflow",
    help="From a stochastic simulator to a tracked, calibrated posterior.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(help="Look after the simulations of a run.", no_args_is_help=True)
track_app = typer.Typer(help="Bring a run into MLflow.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(track_app, name="track")

RunOption = Annotated[Path, typer.Option("-o", "--run", help="Run directory.", show_default=False)]
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, YAML.")]
ConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="Configuration; default: the run's own.")
]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides, dotted keys.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def _open(
    path: Path, source: Path | None = None, words: list[str] | None = None
) -> tuple[Config, Run]:
    from pipeline.config import resolve
    from pipeline.run import Run

    run = Run(path)
    return resolve(run, source, words or ()), run


def _existing(path: Path) -> Run:
    from pipeline.run import Run

    run = Run(path)
    if not run.config.exists():
        raise UsageError(f"{path} is not a run: it has no config.yml")
    return run


def _print(value: Any, as_json: bool, text: str = "") -> None:
    print(json.dumps(value, indent=2, default=str) if as_json or not text else text)


@app.command()
def run(
    config: ConfigArgument,
    words: Words = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--run", help="Run directory; default: runs/NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """All stages: simulate, train, evaluate, report, track. Skips what is complete.

    A run that exists knows its configuration: `sbiflow run -o RUN key=value`.
    """
    from pipeline import show, stages
    from pipeline.config import build, override, read
    from pipeline.stop import stop_on_signals

    source: Path | None = config
    if output and (output / "config.yml").exists() and not config.exists() and "=" in str(config):
        source, words = None, [str(config), *(words or ())]
    path = output or Path("runs") / build(override(read(config), words or ())).name
    settings, target = _open(path, source, words)
    with target.lock(), stop_on_signals() as stop:
        result = stages.everything(settings, target, stop)
    _print(result, as_json, show.summary(settings, target, result))


@app.command()
def check(config: ConfigArgument, words: Words = None, as_json: Json = False) -> None:
    """Try prior and simulator: shapes, NaN, seconds, determinism. Writes nothing."""
    from pipeline import config as configuration
    from pipeline import plan as planning
    from pipeline import show

    settings = configuration.build(configuration.override(configuration.read(config), words or ()))
    result = planning.check(settings)
    _print(show.check_values(result), as_json, show.check(settings, result))
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
    from pipeline import plan as planning
    from pipeline import show

    settings, target = _open(output, config, words)
    result = planning.plan(settings, target, workers)
    _print(result, as_json, show.plan(target, result))


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
    settings, target = _open(output, config, words)
    with target.lock(shared=leases), stop_on_signals() as stop:
        if leases:
            stages.share(settings, target, stop, retry)
        else:
            stages.simulate(settings, target, stop, retry)
    status_ = show.status_values(settings, target)
    _print(status_, as_json, show.status(status_))


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
    from pipeline import ready_made, show, stages
    from pipeline.config import read
    from pipeline.run import Run

    listed = [name.strip() for name in names.split(",")] if names else ()
    pairs = ready_made.read_pairs(theta, x, listed, read(prior) if prior else None)
    target = Run(output)
    settings = ready_made.configure(pairs, target, test, words or ())
    with target.lock():
        stages.take(settings, target, pairs)
    status_ = show.status_values(settings, target)
    _print(status_, as_json, show.status(status_))


@app.command()
def train(
    output: RunOption, words: Words = None, config: ConfigOption = None, as_json: Json = False
) -> None:
    """Train the posterior estimator on the budget; continues where it was stopped."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals

    settings, target = _open(output, config, words)
    with target.lock(), stop_on_signals() as stop:
        result = stages.train(settings, target, stop)
    _print(show.plain(result), as_json, show.training(result))


@app.command()
def evaluate(
    output: RunOption, words: Words = None, config: ConfigOption = None, as_json: Json = False
) -> None:
    """Measure the latest posterior on the test simulations."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals

    settings, target = _open(output, config, words)
    with target.lock(), stop_on_signals() as stop:
        result = stages.evaluate(settings, target, stop)
    _print(result, as_json, show.metrics(result))


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    config: ConfigArgument,
    output: RunOption,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]... [--OPTION=VALUE]...",
            help="Overrides, dotted keys; other options go to the batch system.",
        ),
    ] = None,
    stage: Annotated[str, typer.Option(help="simulate, train, evaluate or all.")] = "all",
    nodes: Annotated[str | None, typer.Option(help="Of jobs that share work.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit; work goes on in the next turn.")] = None,
    partition: Annotated[str | None, typer.Option()] = None,
    account: Annotated[str | None, typer.Option()] = None,
    qos: Annotated[str | None, typer.Option()] = None,
    mem: Annotated[str | None, typer.Option(help="Of each node.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Of each node.")] = None,
    gres: Annotated[str | None, typer.Option(help="Like gpu:1.")] = None,
    constraint: Annotated[str | None, typer.Option()] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Whole nodes.")] = False,
    layout: Annotated[str | None, typer.Option(help="How simulations share: ray or array.")] = None,
    array: Annotated[str | None, typer.Option(help="Tasks of layout array, like 0-99.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print the scripts.")] = False,
    as_json: Json = False,
) -> None:
    """Queue the stages as batch jobs, each after the one before, and return at once."""
    from pipeline import show
    from pipeline import submit as submission
    from pipeline.jobs.chain import options

    named = {"nodes": nodes, "time": time, "partition": partition, "account": account, "qos": qos, "mem": mem,
             "cpus-per-task": cpus_per_task, "gres": gres, "constraint": constraint,
             "exclusive": exclusive or None, "array": array}  # fmt: skip
    asked = {name: value for name, value in named.items() if value is not None}
    others, rest = options(words or ())
    if layout:
        rest.append(f"cluster.layout={layout}")
    settings, target = _open(output, config, rest)
    result = submission.submit(settings, target, stage, {**asked, **others}, dry)
    _print(result, as_json, show.submitted(result, output))


@app.command()
def cancel(output: RunOption) -> None:
    """Cancel the run's jobs; what they finished is kept."""
    from pipeline import submit as submission

    print(" ".join(submission.cancel(_existing(output))) or "no job waits or runs")


@app.command()
def status(output: RunOption, as_json: Json = False) -> None:
    """Simulations done, failed and missing, rate, ETA, slowest, digest; the batch jobs."""
    from pipeline import show
    from pipeline import submit as submission
    from pipeline.config import build, read

    target = _existing(output)
    values = show.status_values(build(read(target.config)), target)
    values["jobs"] = submission.states(target)
    _print(values, as_json, show.status(values) + show.jobs(values["jobs"]))


@app.command()
def failures(output: RunOption, as_json: Json = False) -> None:
    """List the simulations that failed, timed out or gave NaN, with parameters and reason."""
    from pipeline import show

    values = show.failure_values(_existing(output))
    _print(values, as_json, show.failures(values))


@app.command()
def sample(
    output: RunOption,
    obs: Annotated[Path, typer.Option(help="Observation: .npz with the simulator's outputs.")],
    out: Annotated[Path, typer.Option(help="Where to write the draws, .npz.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Draws.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    reweight: Annotated[
        bool, typer.Option("--reweight", help="Weight by prior and likelihood, if there is one.")
    ] = False,
    words: Annotated[list[str] | None, typer.Argument(metavar="[steps=N]")] = None,
) -> None:
    """Draw from the latest posterior for an observation."""
    from pipeline import sample as sampling

    steps = None
    for word in words or ():
        key, _, value = word.partition("=")
        if key != "steps" or not value.isdigit() or int(value) < 1:
            raise UsageError(f"{word!r}: valid here is steps=N with N >= 1")
        steps = int(value)
    observation = sampling.read_observation(obs)
    theta = sampling.sample(_existing(output), observation, n, steps, seed, out, reweight)
    print(f"{out}: theta {theta.shape}")


@app.command()
def report(output: RunOption) -> None:
    """Write one self-contained HTML page."""
    from pipeline.report import report as write

    print(write(_existing(output)))


@app.command()
def ui(output: RunOption, port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open the MLflow UI on this run's data, on 127.0.0.1."""
    from pipeline.track import ui as serve

    serve(_existing(output), port)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="simulators, estimators, metrics or backends")],
) -> None:
    """List what is built in or installed."""
    import importlib

    tables = {
        "simulators": "simulators",
        "estimators": "estimators",
        "metrics": "evaluation",
        "backends": "cluster",
    }
    if what not in tables:
        raise UsageError(f"{what!r}: valid are {', '.join(tables)}")
    print("\n".join(importlib.import_module(tables[what]).available()))


@store_app.command()
def info(output: RunOption, as_json: Json = False) -> None:
    """Identity, schema, shards and digest of the simulations."""
    from pipeline import show

    values = show.store_values(_existing(output))
    _print(values, as_json)


@store_app.command()
def verify(output: RunOption, as_json: Json = False) -> None:
    """Check every checksum; exit code 1 where something is damaged."""
    from pipeline import show

    values = show.problem_values(_existing(output))
    _print(values, as_json, show.problems(values))
    if values:
        raise PipelineError(
            f"{len(values)} problems; `sbiflow store repair -o {output}` mends them"
        )


@store_app.command()
def repair(output: RunOption, words: Words = None, as_json: Json = False) -> None:
    """Set damaged shards aside and simulate exactly their rows again."""
    from pipeline import show, stages
    from pipeline.stop import stop_on_signals
    from pipeline.store import Store

    settings, target = _open(output, None, words)
    with target.lock(), stop_on_signals() as stop:
        for stream in show.streams(target):
            ids = Store.open(target.store(stream)).repair()
            print(f"{stream}: {len(ids)} rows to simulate again", file=sys.stderr)
        stages.simulate(settings, target, stop)
    values = show.status_values(settings, target)
    _print(values, as_json, show.status(values))


@store_app.command()
def export(
    output: RunOption,
    out: Annotated[Path, typer.Option(help="File to write: .npz or .nc.")],
    stream: Annotated[str, typer.Option(help="train or test")] = "train",
) -> None:
    """Write the simulations that are ok to one file, numpy or netCDF."""
    from pipeline import show
    from pipeline.store import Store

    target = _existing(output)
    if stream not in show.streams(target):
        raise UsageError(f"--stream {stream!r}: valid are {', '.join(show.streams(target))}")
    print(Store.open(target.store(stream)).export(out))


@track_app.command()
def sync(
    output: RunOption,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
) -> None:
    """Replay the journal into MLflow; a repeat adds nothing twice."""
    from pipeline import track
    from pipeline.config import build, read

    target = _existing(output)
    settings = build(read(target.config))
    to = uri or settings.track.uri or target.tracking_uri
    track.sync(target, to, settings.track.experiment or settings.name)
    print(to)


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    try:
        app()
    except PipelineError as error:
        print(f"sbiflow: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
