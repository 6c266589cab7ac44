"""This machine: its address in the network, a short folder for Ray's sockets, and Ray bound to 127.0.0.1."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
LONGEST = 24  # characters of a temporary folder's name: a socket's path has at most 107 bytes
DAEMONS = ("gcs_server", "raylet")
ALIVE = "alive"  # file that is locked while a folder is used
_used: list[Path] = []  # this process' folder, while it has one


@contextmanager
def folder() -> Iterator[Path]:
    """Make a node-local folder for Ray's sockets and logs, and remove those of dead processes.

    A lock on a file in the folder shows that it is in use, also to processes in other containers.

    Raises:
        ConnectionError: the parent folder belongs to another user, or others have access to it.
    """
    if _used:
        yield _used[-1]  # made by an enclosing context
        return
    parent = _parent()
    with open(parent / "lock", "a", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for old in parent.iterdir():
            if old.is_dir() and not old.is_symlink():
                _drop(old)
        own = _new(parent)
        life = open(own / ALIVE, "a", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(life, fcntl.LOCK_EX)
    _used.append(own)
    try:
        yield own
    finally:
        _used.remove(own)
        shutil.rmtree(own, ignore_errors=True)
        life.close()


def _parent() -> Path:
    """Return the parent of this user's folders, to which no other user has access."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST:
        base = Path("/tmp")
    parent = base / f"sbiflow-{os.getuid()}"
    with suppress(FileExistsError):
        parent.mkdir(mode=0o700)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is no folder"
    elif found.st_uid != os.getuid():
        wrong = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        wrong = f"is open to others, with mode {stat.S_IMODE(found.st_mode):o}"
    else:
        return parent
    raise ConnectionError(
        f"{parent} {wrong}: Ray's sockets need a folder of yours alone; remove it, or set TMPDIR to another place"
    )


def _drop(old: Path) -> None:
    """Remove a folder unless a living process uses it; one without a lock may be in use by an earlier version."""
    try:
        with open(old / ALIVE, "r+", encoding="utf-8") as life:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    except FileNotFoundError:
        with suppress(OSError):
            old.rmdir()  # if it is empty
    except OSError:
        return


def _new(parent: Path) -> Path:
    """Make a folder named by this process; a process in another namespace may have the same number."""
    for number in itertools.count():
        own = parent / f"{os.getpid()}{f'-{number}' if number else ''}"
        with suppress(FileExistsError):
            own.mkdir(mode=0o700)
            return own
    raise AssertionError


@contextmanager
def bound_to(address: str) -> Iterator[None]:
    """Make Ray bind to 127.0.0.1 where that is the address; by default other machines can reach it.

    The setting is an environment variable for Ray's daemons and a constant in this process, where Ray may be
    imported already.
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
    """Return the address of this machine from which another one is reached.

    Raises:
        ConnectionError: there is no route to `host`.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise ConnectionError(f"{socket.gethostname()} has no route to {host}: {error}") from None
    return LOOPBACK if own.startswith("127.") else own


def daemons_alive() -> bool:
    """Whether the indispensable daemons of this process' Ray run; true before it has any.

    The others (dashboard, monitors) may die on an overloaded machine without harm.
    """
    from ray._private import worker

    node = worker._global_node
    return node is None or not any(name in DAEMONS for name, _ in node.dead_processes())


def children() -> set[int]:
    """Return the living children of this process."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.update(map(int, path.read_text(encoding="ascii").split()))
    return found
