"""Ray inside this process' life: started on entering, gone with the process, only on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.connection import Cluster, attach, no_address, usable_cpus
from cluster.host import LOOPBACK, bound_to, daemons_alive, folder

OBJECT_STORE = 100 << 20  # bytes; simulations never travel through it


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Start Ray on this machine; see `cluster.connect`.

    Nothing outlives the process: Ray's daemons die with it, also when it is killed.

    Raises:
        ValueError: an address was given.
    """
    no_address(address, "local")
    with (
        bound_to(LOOPBACK),
        folder() as place,
        attach(
            daemons_alive,
            num_cpus=cpus or usable_cpus(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(place),
        ) as found,
    ):
        yield found
