"""What all commands share: the application, options by name, and opening a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.text import shown
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.run import RunDirectory

app = typer.Typer(
    name="sbiflow",
    help="From a stochastic simulator to a tracked, calibrated posterior.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunOption = Annotated[Path, typer.Option("-o", "--run", help="Run directory.", show_default=False)]
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration, YAML.")]
ConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="Configuration; default: the run's own.")
]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides, dotted keys.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def open_run(
    path: Path, source: Path | None = None, words: list[str] | None = None
) -> tuple[Config, RunDirectory]:
    """Return the configuration and the run at a path, both checked against what is there."""
    from pipeline import stages

    run = folder_run(path)
    return stages.configure(run, source, words or ()), run


def folder_run(path: Path) -> RunDirectory:
    """Return the run at a path that is a folder, or can become one."""
    from pipeline.run import RunDirectory

    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise UsageError(f"-o {path}: {place} is no folder, and a run is one: use another -o")
    return RunDirectory(path)


def existing_run(path: Path) -> RunDirectory:
    """Return the run at a path that has one."""
    run = folder_run(path)
    if not is_run(path):
        raise UsageError(f"{path} is not a run: it has no config.yml")
    return run


def is_run(path: Path) -> bool:
    """Whether there is a configuration, or a journal that has it."""
    return (path / "config.yml").exists() or (path / "journal.jsonl").exists()


def print_result(value: Any, as_json: bool, text: str = "") -> None:
    """Print a result as JSON or, where there is one, as text for people."""
    print(json.dumps(value, indent=2, default=str) if as_json or not text else shown(text))
