"""Submit and leave: a run's stages as a chain of batch jobs, which this process need not outlive.

The scripts, the job ids and all outputs lie in `RUN/jobs`. A job runs the same command that a person would, on the
run's own configuration, so a chain that was cut anywhere is continued by submitting again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import cluster
from cluster.batch import Job, State, Value
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import LockedError, PipelineError, UsageError
from pipeline.jobs.chain import chain, system_of
from pipeline.jobs.check import check
from pipeline.run import Run, write_whole

Row = dict[str, Any]


def submit(
    config: Config,
    run: Run,
    stage: str = "all",
    options: Mapping[str, Value] | None = None,
    dry: bool = False,
) -> dict[str, Any]:
    """Queue the stages that are not complete, each after the one before, and return at once.

    Args:
        stage: simulate, train, evaluate, or "all".
        options: of every job, in sbatch's words; they win over `cluster.options` and `cluster.stages`.
        dry: only return the scripts.

    Returns a mapping of JSON values: `system`, and `jobs` with `stage`, `script`, `text`, and `id` once submitted.

    Raises:
        UsageError: what was asked for cannot work, or the batch system refused; nothing is left behind.
        PipelineError: there is no such batch system here.
    """
    name, system = system_of(config)
    jobs = chain(config, run, stage, (name, system), options or {})
    for job in jobs:
        check(config, run, job)
    scripts = [_script(system, job) for job in jobs]
    if dry:
        return {"system": name, "jobs": _rows(jobs, scripts)}
    with _submitting(run):
        _check_idle(run)
        configuration.save(config, run)
        rows = _queue(system, jobs, scripts, partial(_keep, run, name))
    return {"system": name, "jobs": rows}


def states(run: Run) -> list[dict[str, Any]]:
    """Return `stage`, `id`, `state`, `reason` and `live` of the jobs of the last submission, if there was one."""
    system, jobs = _submitted(run)
    if not jobs:
        return []
    try:
        known = system.states([job["id"] for job in jobs])
    except (ConnectionError, ValueError) as error:
        known = dict.fromkeys((job["id"] for job in jobs), State("UNKNOWN", str(error)))
    return [_state(run, job, known.get(job["id"])) for job in jobs]


def cancel(run: Run) -> list[str]:
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


def _check_idle(run: Run) -> None:
    live = [job for job in states(run) if job["live"]]
    if live:
        shown = ", ".join(f"{job['id']} ({job['stage']}, {job['state']})" for job in live)
        raise UsageError(
            f"{run.path} has jobs in the queue: {shown}; wait, or `sbiflow cancel -o {run.path}`"
        )


# --- queueing --------------------------------------------------------------------------------------


def _record(run: Run) -> Path:
    return run.path / "jobs.json"


def _submitted(run: Run) -> tuple[cluster.System, list[dict[str, Any]]]:
    try:
        record = json.loads(_record(run).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return cluster.system("slurm"), []
    jobs = [{**job, "id": _number(run, job)} for job in record["jobs"]]
    return cluster.system(record["system"]), jobs


def _number(run: Run, job: dict[str, Any]) -> str:
    """Return a job's id, or that of its next turn, where it had to be submitted anew."""
    path = run.path / "jobs" / f"{job['stage']}.id"
    return path.read_text(encoding="utf-8").strip() if path.exists() else str(job["id"])


@contextmanager
def _submitting(run: Run) -> Iterator[None]:
    """Keep a second submission away; a new run that was refused leaves nothing behind.

    The run's own lock is the jobs', the first of which may start before the last is queued.
    """
    new = not run.path.exists()
    folder = run.path / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / "lock", "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LockedError(f"{run.path} is being submitted by another process") from None
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


def _keep(run: Run, system: str, rows: list[Row]) -> None:
    kept = [{key: value for key, value in row.items() if key != "text"} for row in rows]
    write_whole(_record(run), json.dumps({"system": system, "jobs": kept}, indent=1))


def _script(system: cluster.System, job: Job) -> str:
    try:
        return system.script(job)
    except ValueError as error:
        raise UsageError(f"{job.stage}: {error}") from None


def _state(run: Run, job: dict[str, Any], known: State | None) -> dict[str, Any]:
    """Return what is known of a job, from the batch system or from what its script left."""
    if known is None:
        ended = run.path / "jobs" / f"{job['stage']}.exit"
        reason = f"exit code {ended.read_text().strip()}" if ended.exists() else "no longer known"
        known = State("ENDED" if ended.exists() else "UNKNOWN", reason)
    return {"stage": job["stage"], "id": job["id"], "state": known.state,
            "reason": known.reason, "live": known.live}  # fmt: skip
