"""A study as one job array: its tasks share the simulations by leases, and take cases that no other has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.batch import Job, Value
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.study import schema
from pipeline.study.stage import prepare
from pipeline.submit.chain import python_words
from pipeline.submit.stage import submit_jobs


def submit_study(
    source: Path, folder: Path, words: Iterable[str], options: Mapping[str, Value], dry: bool
) -> dict[str, Any]:
    """Queue a study and return at once.

    Arguments:
        source: the study's file.
        folder: of the study.
        words: overrides of its base configuration.
        options: of the job array, in sbatch's words; they win over `cluster.options`.
        dry: only return the script.

    Returns and raises as `pipeline.submit.stage.submit` does.
    """
    words = list(words)
    study = schema.read(source, words)
    shared = prepare(study, folder, words)
    config = shared[0].cases[0].config
    cluster = config.cluster.model_copy(update={"layout": "array"})
    config = config.model_copy(update={"cluster": cluster})
    asked = {"nodes": 1, **config.cluster.options, **options}
    if "array" not in asked:
        raise UsageError("a study is a job array and needs to know how many tasks: --array=0-7")
    job = _job(config, study.name, folder.resolve(), asked)
    return submit_jobs(config, RunDirectory(folder), [job], dry, lambda: schema.keep(study, folder))


def _job(config: Config, name: str, folder: Path, options: Mapping[str, Value]) -> Job:
    settings = config.cluster
    command = (*python_words(config), "-m", "pipeline", "study", "-o", str(folder), "--share")
    try:
        return Job(
            title=f"study {name} in {folder}",
            name=f"{name}-study",
            stage="study",
            place=Path.cwd(),
            folder=folder / "jobs",
            work=command,
            options=options,
            directives=settings.directives,
            setup=settings.setup,
            notice=settings.notice,
            restarts=settings.restarts,
        )
    except ValueError as error:
        raise UsageError(f"study: {error}") from None
