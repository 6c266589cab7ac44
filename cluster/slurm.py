"""SLURM: jobs by `sbatch`, Ray on the nodes that it granted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.allocation import AGENTS, FOLDER, Grant, inside
from cluster.batch import LEAVE, STOPPED, Job, JobState, body, call, head, quoted
from cluster.connection import RayCluster, no_address, usable_cpus

CHAINS = True  # a job can wait for another's success
LIVE = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT"}
NODES = """\
export {variable}={folder}/nodes-$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}
others=$((SLURM_JOB_NUM_NODES - 1))
mkdir -p "${variable}"
{{
  srun --relative=1 --nodes=$others --ntasks=$others --ntasks-per-node=1 \\
    ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} \\
    --overlap --cpu-bind=none --kill-on-bad-exit=0 \\
    {command} "${variable}"
  code=$?
  [ -d "${variable}" ] && echo $code > "${variable}/{ended}"
}} &
"""
TASK = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"  # its own id may stand for the whole array
REST = """\
# all simulations are done: cancel tasks that wait, or that SLURM holds because it could not launch them
[ $code != 0 ] || scancel --quiet --state=PENDING "$SLURM_ARRAY_JOB_ID"
"""
AGAIN = """\
if [ $code = {stopped} ] || {{ [ -n "$stopping" ] && [ $code != 0 ]; }}; then
  state=$(squeue --noheader --format=%T --jobs={me})  # a cancelled job is not RUNNING
  if [ "$state" = RUNNING ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue {me} && sleep 60  # SLURM ends this script
  fi
fi
"""


# --- inside a job --------------------------------------------------------------------------------


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Start Ray on the nodes of the SLURM job that this process is part of; see `cluster.connect`.

    Raises:
        ValueError: an address was given.
        ConnectionError: this is no SLURM job, or a node did not come.
    """
    no_address(address, "slurm")
    if "SLURM_JOB_ID" not in os.environ:
        raise ConnectionError(
            "cluster.backend=slurm works inside a SLURM job: use `sbiflow submit`, or cluster.backend=local"
        )
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    with inside(granted(os.environ), nodes) as found:
        yield found


def granted(environment: Mapping[str, str]) -> Grant:
    """Return what SLURM granted on this node, not what the node has."""
    cpus = int(environment.get("SLURM_CPUS_ON_NODE", "1"))
    megabytes = int(environment.get("SLURM_MEM_PER_NODE", "0"))
    megabytes = megabytes or cpus * int(environment.get("SLURM_MEM_PER_CPU", "0"))
    memory = megabytes << 20 if megabytes else None
    return Grant(min(cpus, usable_cpus()), memory, int(environment.get("SLURM_GPUS_ON_NODE", "0")))


# --- from outside --------------------------------------------------------------------------------


def script(job: Job) -> str:
    """Return the batch script of a job."""
    lines = [
        _option("job-name", job.name),
        _option("output", f"{job.folder}/{job.stage}-%j.log"),
        "--open-mode=append",
        f"--signal=B:USR1@{job.notice}",
        "--requeue",
        "--ntasks-per-node=1",
        *(_option(name, value) for name, value in job.options.items() if value is not False),
    ]
    nodes = end = ""
    if job.node is not None and job.nodes > 1:
        nodes = NODES.format(
            variable=FOLDER, folder=quoted(job.folder), command=shlex.join(job.node), ended=AGENTS
        )
        end = LEAVE.format(variable=FOLDER)
    array = "array" in job.options
    me = TASK if array else "$SLURM_JOB_ID"
    again = AGAIN.format(stopped=STOPPED, restarts=job.restarts, me=me)
    end += REST if array else ""
    return head(job, "#SBATCH", lines) + body(job, nodes, again=again, end=end)


def _option(name: str, value: object) -> str:
    return f"--{name}" if value is True else f"--{name}={quoted(value)}"


def submit(path: Path, after: str | None = None, success: bool = True) -> str:
    """Hand a script to SLURM, to start when the job `after` has succeeded, or only ended; return the job's id.

    Raises:
        ConnectionError: there is no SLURM here.
        ValueError: SLURM refused.
    """
    word = "afterok" if success else "afterany"
    wait = [f"--dependency={word}:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return call(["sbatch", "--parsable", *wait, str(path)]).strip().partition(";")[0]


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """Return what SLURM knows of jobs; it forgets finished ones after minutes, unless it keeps accounts.

    Raises:
        ConnectionError: there is no SLURM here.
        ValueError: its controller does not answer.
    """
    wanted = list(ids)
    found: dict[str, JobState] = {}
    for line in call(
        ["squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%r"]
    ).splitlines():
        number, state, reason = line.split("|", 2)
        number = number.partition("_")[0]
        if number in wanted:
            told = reason if reason not in ("None", "(null)") else ""
            found[number] = _together(JobState(state, told, state in LIVE), found.get(number))
    lost = [number for number in wanted if number not in found]
    if lost:
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobID,JobState,ExitCode",
        ]
        for line in _accounts([*command, f"--jobs={','.join(lost)}"]):
            number, state, code = line.split("|", 2)
            number = number.partition("_")[0]
            ended = JobState(state.partition(" ")[0], f"exit code {code.partition(':')[0]}")
            found[number] = _together(ended, found.get(number))
    return found


def _together(one: JobState, other: JobState | None) -> JobState:
    """Return the state of an array from those of two tasks; it is complete once one task has completed."""
    if other is None:
        return one
    return min(one, other, key=lambda s: (not s.live, s.state != "RUNNING", s.state != "COMPLETED"))


def _accounts(command: list[str]) -> list[str]:
    try:
        return call(command).splitlines()
    except (ConnectionError, ValueError):  # no accounts are kept
        return []


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; what they finished is kept.

    Raises:
        ConnectionError: there is no SLURM here.
        ValueError: SLURM refused.
    """
    call(["scancel", *ids])
