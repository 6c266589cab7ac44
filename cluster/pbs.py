"""PBS (experimental): jobs by `qsub`, Ray on the nodes that it granted.

PBS neither tells a job that its time limit is near, nor can a job queue itself again under its own id.
Therefore the work runs under `timeout`, all stages are one job, and the script submits itself again where work
is left.
"""

from __future__ import annotations

import os
import re
import shlex
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
    in_time,
    known,
    memory,
    quoted,
    seconds,
    size,
)
from cluster.connection import RayCluster, no_address, usable_cpus

CHAINS = False
WORDS = ("account", "cpus-per-task", "exclusive", "gres", "mem", "nodes", "partition", "time")
LIVE = {"B", "E", "H", "M", "Q", "R", "S", "T", "U", "W"}
NODES = """\
export {variable}={folder}/nodes-$PBS_JOBID
mkdir -p "${variable}"
join() {{
  {setup}
  exec {command} "$1"
}}
for number in $(seq 1 {others}); do
  {{
    pbsdsh -n $number -- bash -c "$(declare -f join); export NCPUS=$NCPUS {memory}=${memory}; join ${variable}"
    code=$?
    [ -d "${variable}" ] && echo $code > "${variable}/{ended}"
  }} &
done
"""
AGAIN = """\
turn=$(( ${{SBIFLOW_TURN:-0}} + 1 ))
if [ $code = {stopped} ] && [ -z "$stopping" ] && [ $turn -le {restarts} ]; then  # the alarm, not qdel
  qsub -v SBIFLOW_TURN=$turn {script} > {number}
fi
"""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Start Ray on the nodes of the PBS job that this process is part of; see `cluster.connect`.

    Raises:
        ValueError: an address was given.
        ConnectionError: this is no PBS job, or a node did not come.
    """
    no_address(address, "pbs")
    if "PBS_NODEFILE" not in os.environ:
        raise ConnectionError("cluster.backend=pbs works inside a PBS job: use `sbiflow submit`")
    nodes = set(Path(os.environ["PBS_NODEFILE"]).read_text(encoding="utf-8").split())
    with inside(granted(os.environ), len(nodes)) as found:
        yield found


def granted(environment: Mapping[str, str]) -> Grant:
    """Return what PBS granted on this node; the script exports the memory."""
    cpus = min(int(environment.get("NCPUS", "1")), usable_cpus())
    return Grant(cpus, int(environment.get(MEMORY) or 0) or None, visible_gpus(environment))


def script(job: Job) -> str:
    """Return the batch script of a job.

    Raises:
        ValueError: an option that PBS has no word for.
    """
    known(job, WORDS, "pbs")
    nodes = end = ""
    if job.node is not None and job.nodes > 1:
        setup = "\n  ".join((f"cd {quoted(job.place)}", *job.setup))
        nodes = NODES.format(
            variable=FOLDER, folder=quoted(job.folder), setup=setup,
            command=shlex.join(job.node), others=job.nodes - 1, ended=AGENTS, memory=MEMORY,
        )  # fmt: skip
        end = LEAVE.format(variable=FOLDER)
    again = AGAIN.format(
        stopped=STOPPED,
        restarts=job.restarts,
        script=quoted(job.folder / f"{job.stage}.sh"),
        number=quoted(job.folder / f"{job.stage}.id"),
    )
    name = re.sub(r"[^\w.+-]+", "-", job.name)  # PBS takes no others
    log = quoted(f"{job.folder}/{job.stage}.log")
    lines = (f"-N {name}", "-j oe", f"-o {log}", "-r y", *_lines(job))
    return head(job, "#PBS", lines) + body(job, memory(job) + nodes, again, end, in_time(job))


def _lines(job: Job) -> Iterator[str]:
    options = job.options
    select = f"select={job.nodes}:ncpus={options.get('cpus-per-task', 1)}"
    if "mem" in options:
        select += f":mem={size(options['mem']) >> 20}mb"
    if "gres" in options:
        select += f":ngpus={gpus(options['gres'])}"
    yield f"-l {select}"
    yield "-l place=scatter" + (":excl" if options.get("exclusive") else "")
    if "time" in options:
        yield f"-l walltime={seconds(options['time'])}"
    if "partition" in options:
        yield f"-q {quoted(options['partition'])}"
    if "account" in options:
        yield f"-A {quoted(options['account'])}"


def submit(path: Path, after: str | None = None, success: bool = True) -> str:
    """Hand a script to PBS and return the job's id.

    Raises:
        ConnectionError: there is no PBS here.
        ValueError: PBS refused.
    """
    word = "afterok" if success else "afterany"
    wait = ["-W", f"depend={word}:{after}"] if after else []
    return call(["qsub", *wait, str(path)]).strip()


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """Return what PBS knows of jobs.

    Raises:
        ConnectionError: there is no PBS here.
        ValueError: it knows none of them.
    """
    return read_states(call(["qstat", "-x", *ids]))


def read_states(table: str) -> dict[str, JobState]:
    """Read the table of `qstat`: id, name, user, time, state, queue."""
    rows = [line.split() for line in table.splitlines()[2:]]
    return {row[0]: JobState(row[-2], "", row[-2] in LIVE) for row in rows if len(row) >= 6}


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; what they finished is kept.

    Raises:
        ConnectionError: there is no PBS here.
        ValueError: PBS refused.
    """
    call(["qdel", *ids])
