"""Ray on this machine: started by this process, ended with it, and reachable on 127.0.0.1 only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.connection import RayCluster, no_address, usable_cpus
from cluster.head import head
from cluster.host import LOOPBACK


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Start Ray on this machine; see `cluster.connect`.

    Nothing outlives the process: Ray's daemons die with it, also when it is killed.

    Raises:
        ValueError: an address was given.
        ConnectionError: Ray did not start.
    """
    no_address(address, "local")
    with head(LOOPBACK, cpus or usable_cpus()) as found:
        yield found
