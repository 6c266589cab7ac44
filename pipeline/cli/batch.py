"""Jobs of a batch system."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.app import (
    ConfigArgument,
    Json,
    RunOption,
    app,
    folder_run,
    open_run,
    print_result,
)


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
    """Queue the stages as batch jobs, each after the one before, and return at once.

    A study is one job array, whose tasks share its cases: --array says how many.
    """
    from pipeline import show
    from pipeline.study.schema import is_study
    from pipeline.study.submission import submit_study
    from pipeline.submit import stage as submission
    from pipeline.submit.chain import options

    named = {"nodes": nodes, "time": time, "partition": partition, "account": account, "qos": qos, "mem": mem,
             "cpus-per-task": cpus_per_task, "gres": gres, "constraint": constraint,
             "exclusive": exclusive or None, "array": array}  # fmt: skip
    asked = {name: value for name, value in named.items() if value is not None}
    others, rest = options(words or ())
    if layout:
        rest.append(f"cluster.layout={layout}")
    if is_study(config):
        result = submit_study(config, output, rest, {**asked, **others}, dry)
    else:
        settings, target = open_run(output, config, rest)
        result = submission.submit(settings, target, stage, {**asked, **others}, dry)
    print_result(result, as_json, show.submitted(result, output))


@app.command()
def cancel(output: RunOption) -> None:
    """Cancel the run's jobs; what they finished is kept."""
    from pipeline.submit import stage as submission

    print(" ".join(submission.cancel(folder_run(output))) or "no job waits or runs")
