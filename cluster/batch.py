"""What all batch systems share: the description of a job, the text of its script, calls of commands.

A script is meant to be read by people. It sets up the environment, runs one command, and forwards every request
to stop to it. The command exits with code 4 when it was stopped before it was complete; the job then queues
itself again.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

MEMORY = "SBIFLOW_MEMORY"  # variable with the bytes granted on each node
STOPPED = 4  # exit code of work that was asked to stop; a repeat continues
PATIENCE = 60.0  # seconds that a system's command may take
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
OPTION = re.compile(r"[A-Za-z][\w-]*")
SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
Value = str | int | float | bool

HEAD = """\
# {title}
# Written by `sbiflow submit`, which overwrites it; to change it, change the configuration.
"""
WATCH = """\
stopping= signals=0 work=
trap 'stopping=USR1 signals=$((signals + 1)); kill -USR1 $work 2>/dev/null' USR1
trap 'stopping=TERM signals=$((signals + 1)); kill -USR1 $work 2>/dev/null' TERM
"""
FIRST = """\
{command} || {{
  code=$?
  echo $code > {exit}
  exit $code
}}
"""
WORK = """\
{command} &
work=$!
[ -z "$stopping" ] || kill -USR1 $work
before=
while [ "$before" != "$signals" ]; do  # a signal ends the waiting, not the work
  before=$signals
  wait $work
  code=$?
done
"""

LEAVE = """\
rm -rf "${variable}"  # at which the other nodes leave: wait for them, but not for a lost one
for _ in {{1..20}}; do
  [ -n "$(jobs -r)" ] || break
  sleep 0.5
done
"""


@dataclass(frozen=True)
class Job:
    """One job of a run.

    Attributes:
        title: what it does, in words.
        name: as the queue shows it.
        place: working directory.
        folder: absolute, on the shared file system; scripts and outputs go there.
        work: command that ends with `STOPPED` when it was asked to stop.
        first: command before the work, which ends the job unless it succeeds; such a job starts when the one
            before it has ended, however that was, others when that one has succeeded.
        then: commands after the work, when that was complete.
        node: command that joins another node to the job's Ray, less its arguments; None: the work needs no others.
        lock: file that the work locks; a lost node may hold it for a while.
        options: in SLURM's words: "nodes", "time", "mem", ...; True stands for a flag.
        directives: lines for the head of the script, less the system's own prefix.
        setup: shell lines that make the environment.
        notice: seconds before the time limit at which the work is asked to stop.
        restarts: how often the job may queue itself again.
    """

    title: str
    name: str
    stage: str
    place: Path
    folder: Path
    work: tuple[str, ...]
    first: tuple[str, ...] | None = None
    then: tuple[tuple[str, ...], ...] = ()
    node: tuple[str, ...] | None = None
    lock: Path | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    notice: int = 120
    restarts: int = 100

    def __post_init__(self) -> None:
        """Refuse control characters: they could start a new line in a script, or hide text from the reader."""
        words = [self.title, self.name, self.stage, self.place, self.folder, self.lock or ""]
        lines = [
            *self.setup,
            *self.work,
            *(self.first or ()),
            *(self.node or ()),
            *chain(*self.then),
        ]
        lines = [re.sub(r"[\n\t]", " ", line) for line in lines]  # the shell's, and quoted
        for word in (*words, *self.options.values(), *self.directives, *lines):
            if strange := CONTROL.search(str(word)):
                raise ValueError(f"{str(word)!r} holds the control character {strange[0]!r}")
        for name in self.options:
            if not OPTION.fullmatch(name):
                raise ValueError(f"option {name!r}: valid are letters, digits, '-' and '_'")

    @property
    def exit(self) -> Path:
        """File with the exit code of the job, once it has ended."""
        return self.folder / f"{self.stage}.exit"

    @property
    def nodes(self) -> int:
        """Nodes asked for; a range asks for its least."""
        text = str(self.options.get("nodes", 1)).partition("-")[0]
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"nodes = {self.options['nodes']!r}: valid are whole numbers >= 1")
        return int(text)


@dataclass(frozen=True)
class JobState:
    """The state of a job in the batch system's own word, and the reason."""

    state: str
    reason: str = ""
    live: bool = False  # whether it waits or runs


def body(
    job: Job,
    nodes: str = "",
    again: str = "",
    end: str = "",
    work: Sequence[str] | None = None,
) -> str:
    """Return the part of a script that is the same everywhere.

    Arguments:
        nodes: lines that start the other nodes.
        again: lines that queue the job again, by $code and the signal that came, $stopping.
        end: lines after the work, however it ended.
        work: the command, where it is more than the job's.
    """
    parts = [WATCH, "\n".join((f"cd {quoted(job.place)}", *job.setup))]
    if job.lock is not None:
        parts.append(
            f"flock --wait 600 {quoted(job.lock)} true  # a lost node may hold the run for a while\n"
        )
    if job.first:
        parts.append(FIRST.format(command=shlex.join(job.first), exit=quoted(job.exit)))
    parts += [nodes] if nodes else []
    parts.append(WORK.format(command=shlex.join(work or job.work)))
    if end:
        parts.append(end)
    if again:
        parts.append(again)
    if job.then:
        lines = "".join(f"{shlex.join(command)} || code=$?\n" for command in job.then)
        parts.append(f"if [ $code = 0 ]; then\n{indented(lines)}fi\n")
    parts.append(f"echo $code > {quoted(job.exit)}\nexit $code\n")
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def head(job: Job, prefix: str, lines: Sequence[str]) -> str:
    """Return the first lines of a script, with the directives of a system."""
    title = HEAD.format(title=job.title)
    directives = "".join(f"{prefix} {line}\n" for line in (*lines, *job.directives))
    return f"#!/bin/bash\n{title}{directives}\n"


def memory(job: Job) -> str:
    """Return the line that exports the granted memory, for systems that do not set a variable."""
    return f"export {MEMORY}={size(job.options['mem'])}\n" if "mem" in job.options else ""


def in_time(job: Job) -> tuple[str, ...]:
    """Return the work under `timeout`, for systems that do not signal a job before its time limit."""
    if "time" not in job.options:
        return job.work
    rest = seconds(job.options["time"]) - job.notice
    return ("timeout", "--preserve-status", "--signal=USR1", str(rest), *job.work)


def known(job: Job, words: Iterable[str], system: str) -> None:
    """Refuse an option that a system does not have.

    Raises:
        ValueError: names the option, the valid ones, and the way around.
    """
    strange = sorted(set(job.options) - set(words))
    if strange:
        raise ValueError(
            f"{system} has no option {', '.join(strange)}; valid are {', '.join(sorted(words))}, "
            "and cluster.directives for options of its own"
        )


def gpus(gres: Value) -> int:
    """Return how many GPUs `gpu`, `gpu:2` or `gpu:a100:2` asks for.

    Raises:
        ValueError: it asks for something else.
    """
    found = re.fullmatch(r"gpu(?::[A-Za-z]\w*)?(?::(\d+))?", str(gres))
    if not found:
        raise ValueError(f"gres = {gres!r}: valid are like 'gpu', 'gpu:2' and 'gpu:a100:2'")
    return int(found[1] or 1)


def indented(text: str) -> str:
    """Return a text with two blanks before each line."""
    return "".join(f"  {line}\n" for line in text.splitlines())


def quoted(value: object) -> str:
    """Return a value as one word of a shell."""
    return shlex.quote(str(value))


def call(command: Sequence[str], text: str = "") -> str:
    """Run a system's command on a text and return what it printed.

    Raises:
        ConnectionError: there is no such command here, or it does not answer.
        ValueError: it refused; the message is its own.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            input=text,
        )
    except FileNotFoundError:
        raise ConnectionError(
            f"{command[0]!r} is not on the PATH: submit from a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"{command[0]!r} did not answer within {PATIENCE:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise ValueError(said)
    return done.stdout


def seconds(time: Value) -> int:
    """Read a time limit as SLURM does: minutes, "M:S", "H:M:S", "D-H", "D-H:M", "D-H:M:S".

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time).strip())
    if not found:
        raise ValueError(f"time = {time!r}: valid are minutes, 'H:M:S' and 'D-H:M:S'")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    whole = days is not None or len(parts) == 3
    units = (3600, 60, 1) if whole else (60, 1)
    return int(days or 0) * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False))


def size(memory: Value) -> int:
    """Read SLURM's memory, megabytes where no unit is given, as bytes.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", str(memory).strip().upper())
    if not found:
        raise ValueError(f"mem = {memory!r}: valid are megabytes, or like '500M' and '16G'")
    return int(found[1]) * SIZES[found[2] or "M"]
