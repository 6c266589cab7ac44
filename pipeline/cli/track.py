"""MLflow: `sbiflow track`."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.text import shown
from pipeline.cli.app import (
    RunOption,
    app,
    existing_run,
)

track_app = typer.Typer(help="Bring a run into MLflow.", no_args_is_help=True)
app.add_typer(track_app, name="track")


@track_app.command()
def sync(
    output: RunOption,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
) -> None:
    """Replay the journal into MLflow; a repeat adds nothing twice."""
    from pipeline.config import load
    from pipeline.stop import stop_on_signals
    from pipeline.track import stage as track

    target = existing_run(output)
    settings = load(target)
    to = uri or settings.track.uri or target.tracking_uri
    with stop_on_signals() as stop, stop.at_once("track"):
        track.sync(target, to, settings.track.experiment or settings.name)
    print(shown(to))


@track_app.command(hidden=True)
def follow(
    output: RunOption,
    uri: Annotated[str, typer.Option(help="MLflow tracking URI.")],
    experiment: Annotated[str, typer.Option(help="Name of the experiment.")],
) -> None:
    """Write what is new in the journal until standard input ends: the process beside a command."""
    from pipeline.run import RunDirectory
    from pipeline.track import live

    if not live.follow(RunDirectory(output), uri, experiment):
        raise typer.Exit(1)
