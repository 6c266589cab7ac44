"""Submit and leave: a run's stages as a chain of batch jobs, which this process need not outlive.

The scripts, the job ids and all outputs lie in `RUN/jobs`. A job runs the same command that a person would, on the
run's own configuration, so a chain that was cut anywhere is continued by submitting again.
"""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cluster
from cluster.batch import Job, State, Value, seconds, size
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import LockedError, PipelineError, UsageError
from pipeline.run import Run, write_whole
from pipeline.size import read_bytes

STAGES = ("simulate", "train", "evaluate")
OURS = ("array", "dependency", "ntasks", "ntasks-per-node", "output", "parsable", "signal", "wrap")
LOCAL = {"devtmpfs", "overlay", "ramfs", "squashfs", "tmpfs"}  # file systems of one machine


def submit(
    config: Config,
    run: Run,
    stage: str = "all",
    options: Mapping[str, Value] | None = None,
    dry: bool = False,
) -> dict[str, Any]:
    """Queue the stages that are not complete, each after the one before, and return at once.

    Args:
        stage: one of `STAGES`, or "all".
        options: of every job, in sbatch's words; they win over `cluster.options` and `cluster.stages`.
        dry: only return the scripts.

    Returns a mapping of JSON values: `system`, and `jobs` with `stage`, `script`, `text`, and `id` once submitted.

    Raises:
        UsageError: what was asked for cannot work, or the batch system refused; nothing is left behind.
        PipelineError: there is no such batch system here.
    """
    name, system = _system(config)
    jobs = _jobs(config, run, name, system, _stages(config, run, stage), options or {})
    for job in jobs:
        _check(config, run, job)
    scripts = [_script(system, job) for job in jobs]
    if dry:
        return {"system": name, "jobs": _rows(jobs, scripts)}
    with _submitting(run):
        _check_idle(run)
        configuration.save(config, run)
        ids = _queue(system, jobs, scripts)
        rows = _rows(jobs, scripts, ids)
        kept = [{key: value for key, value in row.items() if key != "text"} for row in rows]
        write_whole(_record(run), json.dumps({"system": name, "jobs": kept}, indent=1))
    return {"system": name, "jobs": rows}


def states(run: Run) -> list[dict[str, Any]]:
    """Return `stage`, `id`, `state`, `reason`, `live` and `log` of the jobs of the last submission; none: []."""
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


# --- which jobs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How simulations share what was granted.

    Attributes:
        words: overrides of the command that simulates.
        node: module that joins another node to the job; None: tasks know nothing of each other.
    """

    words: Callable[[str], tuple[str, ...]]
    node: str | None


LAYOUTS = {"ray": Layout(lambda system: (f"cluster.backend={system}",), "cluster.node")}


def _system(config: Config) -> tuple[str, cluster.System]:
    """Return the configured batch system; SLURM where the configuration names a Ray instead."""
    name = config.cluster.backend
    name = "slurm" if name in ("local", "existing") else name
    try:
        return name, cluster.system(name)
    except LookupError as error:
        raise UsageError(str(error.args[0])) from None


def _stages(config: Config, run: Run, stage: str) -> tuple[str, ...]:
    """Return the stages to queue: as asked, without simulations that are all there."""
    if stage not in (*STAGES, "all"):
        raise UsageError(f"--stage {stage!r}: valid are {', '.join(STAGES)}, all")
    missing = _missing(config, run)
    if stage == "all":
        return STAGES if missing else STAGES[1:]
    if stage != "simulate" and missing:
        raise UsageError(f"--stage {stage}: {missing} simulations are missing; use --stage all")
    return (stage,)


def _missing(config: Config, run: Run) -> int:
    from pipeline.store import Store

    budgets = {"train": config.budget, "test": config.test}
    paths = {stream: run.store(stream) for stream in budgets}
    return sum(
        Store.open(paths[stream]).counts(budget)["missing"] if paths[stream].exists() else budget
        for stream, budget in budgets.items()
    )


def _jobs(
    config: Config,
    run: Run,
    name: str,
    system: cluster.System,
    stages: tuple[str, ...],
    options: Mapping[str, Value],
) -> list[Job]:
    layout = LAYOUTS.get(config.cluster.layout)
    if layout is None:
        raise UsageError(
            f"cluster.layout = {config.cluster.layout!r}: valid are {', '.join(LAYOUTS)}"
        )
    if len(stages) > 1 and not system.CHAINS:
        return [_job(config, run, name, "run", options, layout)]
    return [_job(config, run, name, stage, options, layout) for stage in stages]


def _job(
    config: Config, run: Run, system: str, stage: str, options: Mapping[str, Value], layout: Layout
) -> Job:
    settings = config.cluster
    python = (*shlex.split(settings.prefix), settings.python or _python(settings.prefix))
    path = run.path.resolve()
    words = layout.words(system) if stage in ("simulate", "run") else (f"cluster.backend={system}",)
    source = (str(path / "config.yml"),) if stage == "run" else ()
    work = (*python, "-m", "pipeline", stage, *source, "-o", str(path), *words)
    report = (*python, "-m", "pipeline", "report", "-o", str(path))
    shares = stage in ("simulate", "run") or (stage == "train" and config.train.workers > 0)
    return Job(
        title=f"{stage} of {path}",
        name=f"{config.name}-{stage}",
        stage=stage,
        place=Path.cwd(),
        folder=path / "jobs",
        work=work,
        then=(report,) if stage == "evaluate" else (),
        node=(*python, "-m", layout.node, system) if shares and layout.node else None,
        lock=path / "lock",
        options=_options(config, stage, options, shares),
        directives=settings.directives,
        setup=settings.setup,
        notice=settings.notice,
        restarts=settings.restarts,
    )


def _python(prefix: str) -> str:
    return "python" if prefix else sys.executable


def _options(
    config: Config, stage: str, options: Mapping[str, Value], shares: bool
) -> dict[str, Value]:
    """Return what a job asks for; work that uses one node gets no more than one."""
    everywhere = {**config.cluster.options, **options}
    if not shares:
        everywhere.pop("nodes", None)
    own = getattr(config.cluster.stages, stage, {})
    return {"nodes": 1, **everywhere, **{k: v for k, v in own.items() if k not in options}}


# --- what cannot work, before hours are spent ------------------------------------------------------


def _check(config: Config, run: Run, job: Job) -> None:
    for option in OURS:
        if option in job.options:
            raise UsageError(
                f"--{option} is decided by sbiflow (cluster.layout={config.cluster.layout})"
            )
    try:
        _check_time(job)
        if job.stage in ("simulate", "run"):
            _check_room(config, job)
        assert job.nodes
    except ValueError as error:
        raise UsageError(f"{job.stage}: {error}") from None
    if not config.cluster.shared:
        _check_shared(run.path, "the run directory")
        file, colon, _ = config.simulator.name.rpartition(":")
        if colon and file.endswith(".py"):
            _check_shared(Path(file), "the simulator")


def _check_time(job: Job) -> None:
    if "time" in job.options and seconds(job.options["time"]) <= job.notice:
        raise UsageError(
            f"{job.stage}: time={job.options['time']} leaves nothing before the notice of "
            f"cluster.notice={job.notice} seconds"
        )


def _check_room(config: Config, job: Job) -> None:
    """Refuse a node on which not one simulation fits."""
    cpus = job.options.get("cpus-per-task")
    if cpus is not None and float(cpus) < config.simulate.cpus:
        raise UsageError(
            f"cpus-per-task={cpus} is less than simulate.cpus={config.simulate.cpus:g}"
        )
    if config.simulate.memory is None or "mem" not in job.options:
        return
    needed, granted = read_bytes(config.simulate.memory), size(job.options["mem"])
    if 0 < granted < needed:  # in SLURM mem=0 is all of a node
        raise UsageError(
            f"mem={job.options['mem']} is less than simulate.memory={config.simulate.memory}: "
            "not one simulation fits on a node"
        )


def _check_shared(path: Path, what: str) -> None:
    """Refuse what surely lies on a disk that only this machine sees."""
    place = path.resolve()
    kind = _file_system(place)
    scratch = {
        Path(tempfile.gettempdir()).resolve(),
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/dev/shm"),
    }
    if kind in LOCAL or any(place.is_relative_to(folder) for folder in scratch):
        raise UsageError(
            f"{what} {place} is on a disk of this machine ({kind}): the nodes need it on a file system that "
            "all share; if they do see it, say cluster.shared=true"
        )


def _file_system(path: Path) -> str:
    """Return the kind of file system a path lies on, as the kernel calls it."""
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, found, *_ = line.split(" ")
        if path.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), found
    return kind


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


def _queue(system: cluster.System, jobs: list[Job], scripts: list[str]) -> list[str]:
    """Submit all jobs or none."""
    ids: list[str] = []
    try:
        for job, text in zip(jobs, scripts, strict=True):
            path = _path(job)
            for old in (job.exit, path.with_suffix(".id")):
                old.unlink(missing_ok=True)
            write_whole(path, text)
            ids.append(system.submit(path, ids[-1] if ids else None))
    except (ConnectionError, ValueError) as error:
        if ids:
            system.cancel(ids)
        raise UsageError(f"the {job.stage} job was not submitted: {error}") from error
    return ids


def _script(system: cluster.System, job: Job) -> str:
    try:
        return system.script(job)
    except ValueError as error:
        raise UsageError(f"{job.stage}: {error}") from None


def _path(job: Job) -> Path:
    return job.folder / f"{job.stage}.sh"


def _rows(
    jobs: list[Job], scripts: list[str], ids: list[str] | None = None
) -> list[dict[str, Any]]:
    rows = [
        {"stage": job.stage, "script": str(_path(job)), "text": text}
        for job, text in zip(jobs, scripts, strict=True)
    ]
    return [{**row, "id": number} for row, number in zip(rows, ids, strict=True)] if ids else rows


def _state(run: Run, job: dict[str, Any], known: State | None) -> dict[str, Any]:
    """Return what is known of a job, from the batch system or from what its script left."""
    if known is None:
        ended = run.path / "jobs" / f"{job['stage']}.exit"
        reason = f"exit code {ended.read_text().strip()}" if ended.exists() else "no longer known"
        known = State("ENDED" if ended.exists() else "UNKNOWN", reason)
    return {"stage": job["stage"], "id": job["id"], "state": known.state,
            "reason": known.reason, "live": known.live}  # fmt: skip
