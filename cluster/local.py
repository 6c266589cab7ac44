"""Ray inside this process' life: started on entering, gone with the process, only on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.connection import Cluster, attach, usable_cpus

OBJECT_STORE = 100 << 20  # bytes; simulations never travel through it


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Start Ray on this machine; see `cluster.connect`.

    Nothing outlives the process: Ray's daemons die with it, also when it is killed.

    Raises:
        ValueError: an address was given.
    """
    if address is not None:
        raise ValueError(
            f"cluster.address = {address!r} has no meaning for the backend 'local'; "
            "use cluster.backend=existing"
        )
    with (
        _loopback(),
        _folder() as folder,
        attach(
            _daemons_alive,
            num_cpus=cpus or usable_cpus(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        ) as found,
    ):
        yield found


@contextmanager
def _loopback() -> Iterator[None]:
    """Make Ray use 127.0.0.1, which it otherwise replaces by an address that other machines reach.

    The same switch is a variable for Ray's daemons and a constant here, where Ray may be imported already.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        os.environ.pop(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, None)
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for Ray's sockets and logs while it is needed, and drop those of dead processes.

    A socket's path has at most 107 bytes, so a long TMPDIR cannot be used.
    """
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 24:
        base = Path("/tmp")
    parent = base / f"sbiflow-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    for old in parent.iterdir():
        if old.name.isdecimal() and not Path("/proc", old.name).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / str(os.getpid())
    nested = folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        if not nested:
            shutil.rmtree(folder, ignore_errors=True)


def _daemons_alive() -> bool:
    from ray._private import worker

    node = worker._global_node
    return node is not None and not node.dead_processes()
