"""Which jobs a run still needs, and what each asks for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cluster
from cluster.batch import Job, Value
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.run import RunDirectory

STAGES = ("simulate", "train", "evaluate")


@dataclass(frozen=True)
class Layout:
    """How simulations share what was granted.

    Attributes:
        words: overrides of the command that simulates.
        node: module that joins another node to the job; None: tasks know nothing of each other.
        array: whether the job is an array, whose tasks share the run through leases.
    """

    words: Callable[[str], tuple[str, ...]]
    node: str | None
    array: bool = False


LAYOUTS = {
    "ray": Layout(lambda system: (f"cluster.backend={system}",), "cluster.node"),
    "array": Layout(lambda system: ("--leases", f"cluster.backend={system}"), None, array=True),
}


def system_of(config: Config) -> tuple[str, cluster.System]:
    """Return the configured batch system; SLURM where the configuration names a Ray instead."""
    name = config.cluster.backend
    name = "slurm" if name in ("local", "existing") else name
    try:
        return name, cluster.system(name)
    except LookupError as error:
        raise UsageError(str(error.args[0])) from None


def options(words: Iterable[str]) -> tuple[dict[str, Value], list[str]]:
    """Take `--name=value` and `--flag` out of the words; return them and the other words.

    Raises:
        UsageError: a word that is neither these nor `key=value`.
    """
    found: dict[str, Value] = {}
    rest = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else True
        elif word.startswith("-") or "=" not in word:
            raise UsageError(
                f"{word!r}: valid are overrides, key=value, and options of the batch system, written in full: "
                "--name=value or --flag"
            )
        else:
            rest.append(word)
    return found, rest


def chain(
    config: Config,
    run: RunDirectory,
    stage: str,
    system: tuple[str, cluster.System],
    options: Mapping[str, Value],
) -> list[Job]:
    """Return the jobs that a run still needs, in order; a system that cannot chain jobs gets one for all stages.

    Raises:
        UsageError: unknown stage or layout, or simulations that a later stage needs are missing.
    """
    name, module = system
    layout = LAYOUTS.get(config.cluster.layout)
    if layout is None:
        raise UsageError(
            f"cluster.layout = {config.cluster.layout!r}: valid are {', '.join(LAYOUTS)}"
        )
    stages = _stages(config, run, stage)
    if (
        layout.array
        and "simulate" in stages
        and "array" not in {**config.cluster.options, **options}
    ):
        raise UsageError("cluster.layout=array needs to know how many tasks: --array=0-99")
    if len(stages) > 1 and not module.CHAINS:
        stages = ("run",)
    jobs = [_job(config, run, name, each, options, layout) for each in stages]
    if layout.array and stages[:2] == STAGES[:2]:  # a task may end badly: the others do its work
        jobs[1] = replace(jobs[1], first=_gate(config, run))
    return jobs


def _gate(config: Config, run: RunDirectory) -> tuple[str, ...]:
    """Return the command that asks whether all simulations are there."""
    return (*python_words(config), "-m", "pipeline.submit.gate", str(run.path.resolve()))


def _stages(config: Config, run: RunDirectory, stage: str) -> tuple[str, ...]:
    """Return the stages to queue: as asked, without simulations that are all there."""
    if stage not in (*STAGES, "all"):
        raise UsageError(f"--stage {stage!r}: valid are {', '.join(STAGES)}, all")
    missing = _missing(config, run)
    if stage == "all":
        return STAGES if missing else STAGES[1:]
    if stage != "simulate" and missing:
        raise UsageError(f"--stage {stage}: {missing} simulations are missing; use --stage all")
    return (stage,)


def _missing(config: Config, run: RunDirectory) -> int:
    from pipeline.store import Store

    paths = {stream: run.store(stream) for stream in config.budgets}
    return sum(
        Store.open(paths[stream]).counts(budget)["missing"] if paths[stream].exists() else budget
        for stream, budget in config.budgets.items()
    )


def _job(
    config: Config,
    run: RunDirectory,
    system: str,
    stage: str,
    options: Mapping[str, Value],
    layout: Layout,
) -> Job:
    settings = config.cluster
    python = python_words(config)
    path = run.path.resolve()
    simulates = stage in ("simulate", "run")
    words = layout.words(system) if simulates else (f"cluster.backend={system}",)
    array = simulates and layout.array
    shares = (simulates and not array) or (stage == "train" and config.train.workers > 0)
    source = (str(path / "config.yml"),) if stage == "run" else ()
    work = (*python, "-m", "pipeline", stage, *source, "-o", str(path), *words)
    report = (*python, "-m", "pipeline", "report", "-o", str(path))
    try:
        return Job(
            title=f"{stage} of {path}",
            name=f"{config.name}-{stage}",
            stage=stage,
            place=Path.cwd(),
            folder=path / "jobs",
            work=work,
            then=(report,) if stage == "evaluate" else (),
            node=(*python, "-m", layout.node, system) if shares and layout.node else None,
            lock=None if array else path / "lock",
            options=_options(config, stage, options, shares, array),
            directives=settings.directives,
            setup=settings.setup,
            notice=settings.notice,
            restarts=settings.restarts,
        )
    except ValueError as error:
        raise UsageError(f"{stage}: {error}") from None


def python_words(config: Config) -> tuple[str, ...]:
    """Return the words that call Python on a node."""
    settings = config.cluster
    default = "python" if settings.prefix else sys.executable
    return (*shlex.split(settings.prefix), settings.python or default)


def _options(
    config: Config, stage: str, options: Mapping[str, Value], shares: bool, array: bool
) -> dict[str, Value]:
    """Return what a job asks for; work that uses one node gets no more than one, and one task."""
    everywhere = {**config.cluster.options, **options}
    if not shares:
        everywhere.pop("nodes", None)
    if not array and config.cluster.layout == "array":
        everywhere.pop("array", None)
    own = getattr(config.cluster.stages, stage, {})
    return {"nodes": 1, **everywhere, **{k: v for k, v in own.items() if k not in options}}
