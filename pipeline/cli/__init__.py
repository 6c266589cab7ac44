"""The `sbiflow` command: thin; every command calls one stage."""
# ruff: noqa: I001 (commands stand in `sbiflow --help` in the order of these imports)

from pipeline.cli import stages, results, invert, study, batch, store, track
from pipeline.cli.app import app
from pipeline.ending import ending

__all__ = ["app", "batch", "invert", "main", "results", "stages", "store", "study", "track"]


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    with ending():
        app()
