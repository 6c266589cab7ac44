"""The simulations of a run: `sbiflow store`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.text import shown
from pipeline.cli.app import (
    Json,
    RunOption,
    Words,
    app,
    existing_run,
    open_run,
    print_result,
)
from pipeline.errors import PipelineError, UsageError

store_app = typer.Typer(help="Look after the simulations of a run.", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command()
def info(output: RunOption, as_json: Json = False) -> None:
    """Identity, schema, shards and digest of the simulations."""
    from pipeline import show

    values = show.store_values(existing_run(output))
    print_result(values, as_json)


@store_app.command()
def verify(output: RunOption, as_json: Json = False) -> None:
    """Check every checksum; exit code 1 where something is damaged."""
    from pipeline import show

    values = show.problem_values(existing_run(output))
    print_result(values, as_json, show.problems(values))
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
    from pipeline.store import repair as set_aside

    settings, target = open_run(output, None, words)
    with target.lock(), stop_on_signals() as stop:
        for stream in show.stores(target):
            ids = set_aside(Store.open(target.store(stream)))
            print(f"{stream}: {len(ids)} rows to simulate again", file=sys.stderr)
        stages.simulate(settings, target, stop)
        stages.repair_abc(settings, target, stop)
    values = show.status_values(settings, target)
    print_result(values, as_json, show.status(values))


def _observation(target: Any, store: Any) -> Any:
    """Return how the outputs of a store are observed."""
    from pipeline.config import load, simulator_of
    from pipeline.store.observation import OBSERVED, Observation

    if store.identity.get("outputs") == OBSERVED:
        raise UsageError("--observed: the rows of an ABC run are observed already; leave it out")
    if (observe := Observation.of(simulator_of(load(target)), store.identity)) is None:
        raise UsageError("--observed: the simulator has no noise model of its own; leave it out")
    return observe


def _history(target: Any, stream: str, out: Path, obs: Path | None) -> Path:
    """Write a stream as a history of pyABC."""
    from pipeline.abc.history import export_history
    from pipeline.config import load
    from pipeline.infer.observation import read_observation

    observation = None if obs is None else read_observation(obs)
    return export_history(load(target), target, stream, out, observation)


@store_app.command()
def export(
    output: RunOption,
    out: Annotated[Path, typer.Option(help="File to write: .npz, .nc or .db.")],
    stream: Annotated[str, typer.Option(help="train, test, or abc-KEY of an ABC run.")] = "train",
    obs: Annotated[
        Path | None, typer.Option(help="Observation, for .db: distances are to it.")
    ] = None,
    observed: Annotated[
        bool, typer.Option("--observed", help="Also what is observed of latent outputs.")
    ] = False,
) -> None:
    """Write the simulations that are ok to one file: numpy, netCDF, or a history of pyABC."""
    from pipeline import show
    from pipeline.imported.arrays import check_out
    from pipeline.store import Store
    from pipeline.store import export as write

    target = existing_run(output)
    check_out(out)
    if stream not in show.stores(target):
        raise UsageError(f"--stream {stream!r}: valid are {', '.join(show.stores(target))}")
    if out.suffix == ".db":
        print(shown(_history(target, stream, out, obs)))
        return
    if obs is not None:
        raise UsageError(f"--obs is for a history of pyABC, --out NAME.db, not for {out}")
    store = Store.open(target.store(stream))
    observe = _observation(target, store) if observed else None
    print(shown(write(store, out, observe=observe)))
