"""Many trainings by one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import Json, Words, app, folder_run, print_result
from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from pipeline.study.schema import Study


@app.command()
def study(
    output: Annotated[Path, typer.Option("-o", "--out", help="Folder of the study.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY]", help="Study, YAML; not for a folder that has one."),
    ] = None,
    words: Words = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Cases at a time.")] = None,
    shared: Annotated[
        bool, typer.Option("--share", help="As one of many processes on one study, without Ray.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say which cases are complete.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost.")] = False,
    as_json: Json = False,
) -> None:
    """Many trainings over shared simulations: simulate once, train what is missing, compare.

    A folder that has a study knows it: `sbiflow study -o DIR` does what is missing.
    """
    from pipeline.stop import stop_on_signals
    from pipeline.study import show, stage

    folder = folder_run(output).path
    plan, words = _plan(source, folder, words or [])
    if parallel:
        plan = plan.model_copy(update={"parallel": parallel})
    if status:
        _print_status(plan, folder, as_json)
        return
    if dry:
        from pipeline.study.forecast import forecast

        values = forecast(plan, folder, words)
        print_result(values, as_json, show.forecast(values))
        return
    with stop_on_signals() as stop:
        result = (stage.share if shared else stage.study)(plan, folder, stop, words)
    print_result(result, as_json, show.study(result, folder))
    fine = ("complete", "missing") if shared else ("complete",)  # others may still work on these
    if failed := [case["name"] for case in result["cases"] if case["state"] not in fine]:
        raise PipelineError(f"{len(failed)} cases failed: {', '.join(failed)}; repeat to try again")


def _plan(source: Path | None, folder: Path, words: list[str]) -> tuple[Study, list[str]]:
    """Return the study of a file, or that of the folder, and the overrides."""
    from pipeline.study import schema

    kept = schema.load(folder)
    if source and kept and not source.exists() and "=" in str(source):
        source, words = None, [str(source), *words]
    if source:
        return schema.read(source, words), words
    if kept is None:
        raise UsageError("give a study, or by -o a folder that has one")
    return schema.build(kept.plain(), str(folder), words), words


def _print_status(plan: Study, folder: Path, as_json: bool) -> None:
    from pipeline import show as showing
    from pipeline.run import RunDirectory
    from pipeline.study import show
    from pipeline.study.case import cases
    from pipeline.study.results import states
    from pipeline.submit import stage as submission

    rows, jobs = states(cases(plan, folder)), submission.states(RunDirectory(folder))
    text = show.states(rows) + showing.jobs(jobs)
    print_result({"cases": rows, "jobs": jobs}, as_json, text)
