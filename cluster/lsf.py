"""LSF (experimental): jobs by `bsub`, Ray on the nodes that it granted."""

from __future__ import annotations

import math
import os
import re
import shlex
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.allocation import AGENTS, FOLDER, Grant, inside, visible_gpus
from cluster.batch import (
    LEAVE,
    MEMORY,
    STOPPED,
    Job,
    JobState,
    body,
    call,
    gpus,
    head,
    known,
    memory,
    quoted,
    seconds,
    size,
)
from cluster.connection import RayCluster, no_address, usable_cpus

CHAINS = True
WORDS = (
    "account",
    "cpus-per-task",
    "exclusive",
    "gres",
    "mem",
    "nodes",
    "partition",
    "qos",
    "time",
)
LIVE = {"PEND", "PROV", "PSUSP", "RUN", "SSUSP", "USUSP", "WAIT"}
NODES = """\
export {variable}={folder}/nodes-$LSB_JOBID.$(date +%s)
mkdir -p "${variable}"
others=$(tr ' ' '\\n' <<< "$LSB_HOSTS" | sort -u | grep -vx "$(hostname)" | tr '\\n' ' ')
{{
  blaunch -z "$others" {command} "${variable}"
  code=$?
  [ -d "${variable}" ] && echo $code > "${variable}/{ended}"
}} &
"""
AGAIN = """\
[ "$stopping" != USR1 ] || [ $code = 0 ] || code={stopped}  # with which LSF queues the job again
[ "$stopping" != TERM ] || code=143  # bkill
"""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Start Ray on the nodes of the LSF job that this process is part of; see `cluster.connect`.

    Raises:
        ValueError: an address was given.
        ConnectionError: this is no LSF job, or a node did not come.
    """
    no_address(address, "lsf")
    if "LSB_MCPU_HOSTS" not in os.environ:
        raise ConnectionError("cluster.backend=lsf works inside an LSF job: use `sbiflow submit`")
    with inside(granted(os.environ), len(_slots(os.environ))) as found:
        yield found


def granted(environment: Mapping[str, str]) -> Grant:
    """Return what LSF granted on this node; the script exports the memory."""
    slots, here = _slots(environment), socket.gethostname()
    cpus = slots.get(here) or slots.get(here.partition(".")[0]) or min(slots.values(), default=1)
    limit = int(environment.get(MEMORY) or 0) or None
    return Grant(min(cpus, usable_cpus()), limit, visible_gpus(environment))


def _slots(environment: Mapping[str, str]) -> dict[str, int]:
    """Read "host1 4 host2 4"."""
    words = environment.get("LSB_MCPU_HOSTS", "").split()
    return {host: int(count) for host, count in zip(words[::2], words[1::2], strict=True)}


def script(job: Job) -> str:
    """Return the batch script of a job.

    Raises:
        ValueError: an option that LSF has no word for.
    """
    known(job, WORDS, "lsf")
    nodes = end = ""
    if job.node is not None and job.nodes > 1:
        nodes = NODES.format(
            variable=FOLDER, folder=quoted(job.folder), command=shlex.join(job.node), ended=AGENTS
        )
        end = LEAVE.format(variable=FOLDER)
    lines = (
        f"-J {quoted(job.name)}",
        f"-o {quoted(f'{job.folder}/{job.stage}-%J.log')}",
        "-r",
        f'-Q "{STOPPED}"',
        *_lines(job),
    )
    again = AGAIN.format(stopped=STOPPED)
    return head(job, "#BSUB", lines) + body(job, memory(job) + nodes, again, end)


def _lines(job: Job) -> Iterator[str]:
    options = job.options
    cpus = int(options.get("cpus-per-task", 1))
    yield f"-n {job.nodes * cpus}"
    yield f'-R "span[ptile={cpus}]"'
    if "mem" in options:
        yield f'-R "rusage[mem={size(options["mem"]) >> 20}MB/host]"'
    if "time" in options:
        minutes = math.ceil(seconds(options["time"]) / 60)
        yield f"-W {minutes // 60}:{minutes % 60:02d}"
        yield f"-wt {math.ceil(job.notice / 60)} -wa USR1"
    if "gres" in options:
        yield f'-gpu "num={gpus(options["gres"])}"'
    if options.get("exclusive"):
        yield "-x"
    for name, letter in (("partition", "q"), ("account", "P"), ("qos", "sla")):
        if name in options:
            yield f"-{letter} {quoted(options[name])}"


def submit(path: Path, after: str | None = None, success: bool = True) -> str:
    """Hand a script to LSF, to start when the job `after` has succeeded; return the job's id.

    Raises:
        ConnectionError: there is no LSF here.
        ValueError: LSF refused.
    """
    word = "done" if success else "ended"
    wait = ["-w", f"{word}({after})", "-ti"] if after else []
    return read_id(call(["bsub", *wait], path.read_text(encoding="utf-8")))


def read_id(answer: str) -> str:
    """Return the id in `Job <123> is submitted to queue <normal>.`, the answer of `bsub`."""
    found = re.search(r"Job <(\d+)>", answer)
    if not found:
        raise ValueError(f"bsub answered {answer.strip()!r}, which names no job")
    return found[1]


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """Return what LSF knows of jobs.

    Raises:
        ConnectionError: there is no LSF here.
        ValueError: it knows none of them.
    """
    return read_states(call(["bjobs", "-a", "-noheader", "-o", "jobid stat exit_code", *ids]))


def read_states(table: str) -> dict[str, JobState]:
    """Read the lines of `bjobs`: id, state, exit code."""
    rows = [line.split() for line in table.splitlines()]
    return {
        row[0]: JobState(row[1], f"exit code {row[2]}" if row[2] != "-" else "", row[1] in LIVE)
        for row in rows
        if len(row) == 3
    }


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; what they finished is kept.

    Raises:
        ConnectionError: there is no LSF here.
        ValueError: LSF refused.
    """
    call(["bkill", *ids])
