"""A real SLURM on this machine: one controller and three nodes of two cores, all on 127.0.0.1.

The nodes are `slurmd` daemons under other names: whatever is said about nodes holds, but they share one disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2", "n3")
CPUS, MEGABYTES = 2, 4000
DAEMONS = ("munged", "slurmctld", "slurmd")
PATIENCE = 30.0  # seconds
CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdTimeout=10
KillWait=10
DefMemPerCPU=1000
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def obstacle() -> str:
    """Return why there can be no SLURM here, "" when there can."""
    missing = [name for name in DAEMONS if not _found(name)]
    if missing:
        return f"{', '.join(missing)} not found"
    return "" if os.getuid() == 0 else "SLURM's daemons need root"


class Slurm:
    """A running SLURM; its commands work in this process and its children."""

    def __init__(self, folder: Path, node_daemons: dict[str, subprocess.Popen[bytes]]) -> None:
        self.folder, self.node_daemons = folder, node_daemons

    def run(self, *command: str) -> str:
        """Return what a SLURM command prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def state(self, number: str) -> str:
        return self.field(number, "JobState")

    def field(self, number: str, name: str) -> str:
        """Return a field of `scontrol show job`."""
        words = self.run("scontrol", "show", "job", number).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait(self, number: str, states: set[str], patience: float = 600) -> str:
        """Wait until a job is in one of the states."""
        deadline = time.monotonic() + patience
        while (state := self.state(number)) not in states:
            assert time.monotonic() < deadline, f"job {number} is {state}, not {states}"
            time.sleep(0.2)
        return state

    def clear(self) -> None:
        """Cancel what waits or runs, and have all nodes back."""
        self.run("scancel", "--me")
        for node, daemon in self.node_daemons.items():
            if daemon.poll() is not None:
                self.restore(node)
        _until(lambda: not self.run("squeue", "-h", "--me"))

    def processes(self, node: str) -> list[int]:
        """Return the processes of all jobs on a node."""
        marks = {
            f"SLURMD_NODENAME={node}".encode(),
            f"SLURM_CONF={self.folder}/slurm.conf".encode(),
        }
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((place / "environ").read_bytes().split(b"\0")):
                    found.append(int(place.name))
        return found

    def lose(self, node: str) -> None:
        """End a node as a power cut would: its daemon and everything that jobs run there, at one moment.

        All are frozen first, keepers before kept: a `slurmstepd` that sees its job die reports a job that failed.
        """
        daemon = self.node_daemons[node]
        tree = [daemon.pid, *_descendants(daemon.pid)]
        _send(signal.SIGSTOP, tree)
        while found := [pid for pid in self._at_work(node) if pid not in tree]:
            _send(signal.SIGSTOP, found)
            tree += found
        _send(signal.SIGKILL, tree)
        daemon.wait()

    def _at_work(self, node: str) -> list[int]:
        """Return the processes of all jobs on a node after the daemons that keep them."""
        processes = self.processes(node)
        parents = {int(_status(pid, "PPid") or 0) for pid in processes}
        keepers = [pid for pid in parents if _status(pid, "Name") == "slurmstepd"]
        return [*keepers, *processes]

    @contextmanager
    def ill(self, node: str) -> Iterator[None]:
        """Let a node answer, but start nothing: its spool is no folder."""
        spool = self.folder / "spool" / node
        shutil.rmtree(spool)
        spool.touch()
        try:
            yield
        finally:
            spool.unlink()
            spool.mkdir()

    def restore(self, node: str) -> None:
        """Bring a lost node back."""
        self.node_daemons[node] = _node_daemon(self.folder, node)
        _until(lambda: self.run("sinfo", "-hN", "-n", node, "-o", "%T").split()[0] == "idle")


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Start a SLURM with all its files in a folder; nothing of it is left afterwards, jobs included."""
    with ExitStack() as stack:
        _start_munge(folder, stack)
        conf = _configure(folder)
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(conf)
        stack.callback(_restore, before)
        _daemon(["slurmctld", "-D", "-f", str(conf)], folder, stack)
        daemons = {node: _node_daemon(folder, node) for node in NODES}
        slurm = Slurm(folder, daemons)
        stack.callback(_end, slurm)
        _until(lambda: slurm.run("sinfo", "-h", "-o", "%D %T", "-p", "cpu") == f"{len(NODES)} idle")
        yield slurm


def _start_munge(folder: Path, stack: ExitStack) -> None:
    place = folder / "munge"
    place.mkdir(parents=True, mode=0o755)
    (place / "key").write_bytes(secrets.token_bytes(1024))
    (place / "key").chmod(0o400)
    options = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "seed-file": "seed",
        "log-file": "log",
    }
    words = [f"--{option}={place / name}" for option, name in options.items()]
    # --force: the folders above are a test's, and may be open to others
    _daemon(["munged", "--foreground", "--force", *words], folder, stack)
    _until((place / "socket").exists)


def _configure(folder: Path) -> Path:
    ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={CPUS} RealMemory={MEGABYTES}"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    for name in ("state", "spool"):
        (folder / name).mkdir()
    text = CONF.format(
        host=socket.gethostname().partition(".")[0], port=ports[0], folder=folder, nodes=nodes
    )
    (folder / "slurm.conf").write_text(text)
    return folder / "slurm.conf"


def _node_daemon(folder: Path, node: str) -> subprocess.Popen[bytes]:
    return _popen(
        [_found("slurmd"), "-D", "-N", node, "-f", f"{folder}/slurm.conf"], folder / f"{node}.log"
    )


def _daemon(command: list[str], folder: Path, stack: ExitStack) -> None:
    process = _popen([_found(command[0]), *command[1:]], folder / f"{command[0]}.log")
    stack.callback(_stop, process)


def _popen(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _end(slurm: Slurm) -> None:
    """Cancel all jobs, stop the nodes, and kill what jobs may have left."""
    with suppress(subprocess.CalledProcessError, AssertionError):
        slurm.clear()
    for node, process in slurm.node_daemons.items():
        _stop(process)
        _send(signal.SIGKILL, slurm.processes(node))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return children + [below for child in children for below in _descendants(child)]


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _status(pid: int, field: str) -> str:
    """Return a field of a process' status; "" if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return line.split()[1]
    return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _found(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _restore(before: str | None) -> None:
    os.environ.pop("SLURM_CONF", None)
    if before is not None:
        os.environ["SLURM_CONF"] = before


def _until(true: object, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "SLURM did not come up"
        time.sleep(0.1)
