"""What cannot work is refused before anything is queued, and hours are spent."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cluster.batch import Job, seconds, size
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.setup import worker_memory

OURS = ("dependency", "ntasks", "ntasks-per-node", "output", "parsable", "signal", "wrap")
LOCAL = {"devtmpfs", "overlay", "ramfs", "squashfs", "tmpfs"}  # file systems of one machine


def check(config: Config, run: RunDirectory, job: Job) -> None:
    """Refuse a job that would wait for hours and then fail.

    Raises:
        UsageError: names the option or the place, and what would be valid.
    """
    for option in OURS:
        if option in job.options:
            raise UsageError(f"--{option} is decided by sbiflow")
    if "array" in job.options and config.cluster.layout != "array":
        raise UsageError(
            f"--array={job.options['array']} needs --layout=array; with cluster.layout={config.cluster.layout} "
            "one job has all nodes: --nodes"
        )
    try:
        _check_time(job)
        if job.stage in ("simulate", "run"):
            _check_room(config, job)
        if job.nodes > 1 and job.node is None:
            raise UsageError(f"nodes={job.nodes}, but this work uses one node")
    except ValueError as error:
        raise UsageError(f"{job.stage}: {error}") from None
    if not config.cluster.shared:
        _check_shared(run.path, "the run directory")
        file, colon, _ = config.simulator.name.rpartition(":")
        if colon and file.endswith(".py"):
            _check_shared(Path(file), "the simulator")


def _check_time(job: Job) -> None:
    if "time" in job.options and 0 < seconds(job.options["time"]) <= job.notice:  # 0: no limit
        raise UsageError(
            f"time={job.options['time']} leaves nothing before the notice of "
            f"cluster.notice={job.notice} seconds"
        )


def _check_room(config: Config, job: Job) -> None:
    """Refuse a node on which not one simulation fits."""
    cpus = job.options.get("cpus-per-task")
    if cpus is not None and float(cpus) < config.simulate.cpus:
        raise UsageError(
            f"cpus-per-task={cpus} is less than simulate.cpus={config.simulate.cpus:g}"
        )
    needed = worker_memory(config.simulate)
    if needed is None:
        return
    for option, times in (("mem", 1), ("mem-per-cpu", int(cpus or 1))):
        granted = size(job.options.get(option, 0)) * times
        if 0 < granted < needed:  # in SLURM mem=0 is all of a node
            raise UsageError(
                f"{option}={job.options[option]} is less than simulate.memory={config.simulate.memory}: "
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
