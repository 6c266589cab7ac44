"""Submit and leave: a run's stages as a chain of batch jobs, which this process need not outlive.

The scripts, the job ids and all outputs lie in `RUN/jobs`. A job runs the same command that a person would, on the
run's own configuration, so a chain that was cut anywhere is continued by submitting again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import cluster
from cluster.batch import Job, JobState, Value
from pipeline.config import Config, simulator_of
from pipeline.errors import DamagedError, LockedError, PipelineError, UsageError
from pipeline.files import read_document, write_document, write_whole
from pipeline.locks import try_lock
from pipeline.progress import log
from pipeline.run import RunDirectory
from pipeline.simulate import sources
from pipeline.stages import keep
from pipeline.submit.chain import STAGES, chain, system_of
from pipeline.submit.check import check

Row = dict[str, Any]
ID = re.compile(r"\w[\w.\[\]/-]*")  # of a job; one that is no option of a command


def submit(
    config: Config,
    run: RunDirectory,
    stage: str = "all",
    options: Mapping[str, Value] | None = None,
    dry: bool = False,
) -> dict[str, Any]:
    """Queue the stages that are not complete, each after the one before, and return at once.

    Arguments:
        stage: simulate, train, evaluate, or "all".
        options: of every job, in sbatch's words; they win over `cluster.options` and `cluster.stages`.
        dry: only return the scripts.

    Returns a mapping of JSON values: `system`, and `jobs` with `stage`, `script`, `text`, and `id` once submitted.

    Raises:
        UsageError: what was asked for cannot work, or the batch system refused; nothing is left behind.
        PipelineError: there is no such batch system here.
    """
    from pipeline.plan.requirements import require

    require(config, stages=stage == "all")
    name, system = system_of(config)
    if warning := cluster.caution(name):
        log(f"submit: {warning}")
    jobs = chain(config, run, stage, (name, system), options or {})

    def begin() -> None:
        keep(config, run, "submit")
        if config.simulate.accept_source:  # which is not kept in the run, but holds for its jobs
            sources.accept(run, simulator_of(config))

    return submit_jobs(config, run, jobs, dry, begin)


def submit_jobs(
    config: Config, run: RunDirectory, jobs: list[Job], dry: bool, begin: Callable[[], None]
) -> dict[str, Any]:
    """Queue jobs, each after the one before, and return at once.

    Arguments:
        config: for the batch system, and what it can give.
        run: the folder of the jobs.
        dry: only return the scripts.
        begin: writes what the jobs need.

    Returns and raises as `submit` does.
    """
    name, system = system_of(config)
    for job in jobs:
        check(config, run, job)
    scripts = [_script(system, job) for job in jobs]
    if dry:
        return {"system": name, "jobs": _rows(jobs, scripts)}
    with _submitting(run):
        _check_idle(run)
        begin()
        rows = _queue(system, jobs, scripts, partial(_keep, run, name))
    return {"system": name, "jobs": rows}


def states(run: RunDirectory) -> list[dict[str, Any]]:
    """Return `stage`, `id`, `state`, `reason` and `live` of the jobs of the last submission, if there was one."""
    system, jobs = _submitted(run)
    if not jobs:
        return []
    try:
        known = system.states([job["id"] for job in jobs])
    except (ConnectionError, ValueError) as error:
        known = dict.fromkeys((job["id"] for job in jobs), JobState("UNKNOWN", str(error)))
    return [_state(run, job, known.get(job["id"])) for job in jobs]


def cancel(run: RunDirectory) -> list[str]:
    """Cancel the jobs that wait or run, and return their ids; what they finished is kept.

    Raises:
        UsageError: nothing was submitted.
        PipelineError: the batch system is not there, or refused.
    """
    system, jobs = _submitted(run)
    if not jobs:
        raise UsageError(f"{run.path} has no jobs: nothing was submitted")
    try:
        known = system.states([job["id"] for job in jobs])
        ids = [job["id"] for job in jobs if job["id"] in known and known[job["id"]].live]
        if ids:
            system.cancel(ids)
    except (ConnectionError, ValueError) as error:
        raise PipelineError(str(error)) from error
    return ids


def _check_idle(run: RunDirectory) -> None:
    live = [job for job in states(run) if job["live"]]
    if live:
        shown = ", ".join(f"{job['id']} ({job['stage']}, {job['state']})" for job in live)
        raise UsageError(
            f"{run.path} has jobs in the queue: {shown}; wait, or `sbiflow cancel -o {run.path}`"
        )


# --- queueing --------------------------------------------------------------------------------------


def _record(run: RunDirectory) -> Path:
    return run.path / "jobs.json"


def _submitted(run: RunDirectory) -> tuple[cluster.System, list[dict[str, Any]]]:
    try:
        record = read_document(_record(run), unsealed=True)
        jobs = [{"stage": job["stage"], "id": _number(run, job)} for job in record["jobs"]]
        return cluster.system(record["system"]), jobs
    except FileNotFoundError:
        return cluster.system("slurm"), []
    except (DamagedError, LookupError, TypeError):
        log(
            f"{_record(run)} is damaged: which jobs were submitted is not known, ask the batch system"
        )
        return cluster.system("slurm"), []


def _number(run: RunDirectory, job: dict[str, Any]) -> str:
    """Return a job's id, or that of its next turn, where it had to be submitted anew."""
    if job["stage"] not in (*STAGES, "run", "study"):
        raise LookupError(job["stage"])
    path = run.path / "jobs" / f"{job['stage']}.id"
    number = path.read_text(errors="replace").strip() if path.exists() else str(job["id"])
    if not ID.fullmatch(number):
        raise LookupError(number)
    return number


@contextmanager
def _submitting(run: RunDirectory) -> Iterator[None]:
    """Keep a second submission away; a new run that was refused leaves nothing behind.

    The run's own lock is the jobs', the first of which may start before the last is queued.
    """
    new = not run.path.exists()
    folder = run.path / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / "lock", "a", encoding="utf-8") as file:
            if not try_lock(file):
                raise LockedError(f"{run.path} is being submitted by another process")
            yield
    except UsageError:
        if new:
            shutil.rmtree(run.path)
        raise


def _queue(
    system: cluster.System, jobs: list[Job], scripts: list[str], keep: Callable[[list[Row]], None]
) -> list[Row]:
    """Submit all jobs or none; `keep` notes after each which are there."""
    rows: list[Row] = []
    try:
        for job, row in zip(jobs, _rows(jobs, scripts), strict=True):
            path = Path(row["script"])
            for old in (job.exit, path.with_suffix(".id")):
                old.unlink(missing_ok=True)
            write_whole(path, row["text"])
            number = system.submit(path, rows[-1]["id"] if rows else None, not job.first)
            rows.append({**row, "id": number})
            keep(rows)
    except (ConnectionError, ValueError) as error:
        if rows:
            with suppress(ConnectionError, ValueError):  # the first refusal is the one to tell
                system.cancel([row["id"] for row in rows])
        raise UsageError(f"the {job.stage} job was not submitted: {error}") from error
    return rows


def _rows(jobs: list[Job], scripts: list[str]) -> list[Row]:
    return [
        {"stage": job.stage, "script": str(job.folder / f"{job.stage}.sh"), "text": text}
        for job, text in zip(jobs, scripts, strict=True)
    ]


def _keep(run: RunDirectory, system: str, rows: list[Row]) -> None:
    kept = [{key: value for key, value in row.items() if key != "text"} for row in rows]
    write_document(_record(run), {"format": 1, "system": system, "jobs": kept})


def _script(system: cluster.System, job: Job) -> str:
    try:
        return system.script(job)
    except ValueError as error:
        raise UsageError(f"{job.stage}: {error}") from None


def _state(run: RunDirectory, job: dict[str, Any], known: JobState | None) -> dict[str, Any]:
    """Return what is known of a job, from the batch system or from what its script left."""
    if known is None:
        ended = run.path / "jobs" / f"{job['stage']}.exit"
        code = ended.read_text(errors="replace").strip() if ended.exists() else ""
        reason = f"exit code {code}" if ended.exists() else "no longer known"
        known = JobState("ENDED" if ended.exists() else "UNKNOWN", reason)
    return {"stage": job["stage"], "id": job["id"], "state": known.state,
            "reason": known.reason, "live": known.live}  # fmt: skip
