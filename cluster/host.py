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
    """Ask whether the daemons of this process' Ray run without which there is none; true before it has any.

    Ray can do without the others (dashboard, monitors), which may die on a machine that is short of time.
    """
    from ray._private import worker

    node = worker._global_node
    return node is None or not any(name in DAEMONS for name, _ in node.dead_processes())


def children() -> set[int]:
    """Return the processes that this one started and that are there."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found.update(map(int, path.read_text(encoding="ascii").split()))
    return found
