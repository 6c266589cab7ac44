"""This machine: its address towards others, a short folder for Ray's sockets, and Ray kept on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
LONGEST = 24  # characters of a temporary folder's name: a socket's path has at most 107 bytes
DAEMONS = ("gcs_server", "raylet")


@contextmanager
def folder() -> Iterator[Path]:
    """Make a node-local folder for Ray's sockets and logs while it is needed, and drop those of dead processes."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST:
        base = Path("/tmp")
    parent = base / f"sbiflow-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    for old in parent.iterdir():
        if old.name.isdecimal() and not Path("/proc", old.name).exists():
            shutil.rmtree(old, ignore_errors=True)
    own = parent / str(os.getpid())
    nested = own.exists()
    own.mkdir(exist_ok=True)
    try:
        yield own
    finally:
        if not nested:
            shutil.rmtree(own, ignore_errors=True)


@contextmanager
def bound_to(address: str) -> Iterator[None]:
    """Let Ray bind to 127.0.0.1 where that is the address; it otherwise takes one that other machines reach.

    The same switch is a variable for Ray's daemons and a constant here, where Ray may be imported already.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if address == LOOPBACK:
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        os.environ.pop(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, None)
        ray_constants.ENABLE_RAY_CLUSTER = before


def address_towards(host: str) -> str:
    """Return the address of this machine that packets to another one carry.

    Raises:
        ConnectionError: the name of the other one is not known here.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise ConnectionError(
            f"{socket.gethostname()} does not know a way to {host}: {error}"
        ) from None
    return LOOPBACK if own.startswith("127.") else own


def daemons_alive() -> bool:
    """Ask whether no Ray daemon of this process has ended; a Ray that is being started has no list of them yet."""
    from ray._private import worker

    node = worker._global_node
    if node is not None:
        return not node.dead_processes()
    return not any(_is_dead_daemon(pid) for pid in _children())


def _children() -> Iterator[str]:
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            yield from path.read_text().split()


def _is_dead_daemon(pid: str) -> bool:
    try:
        name, _, rest = Path("/proc", pid, "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return False
    return name in DAEMONS and rest.split()[0] == "Z"
