"""Ray's head in this process: started, and started again where it does not come up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from cluster.connection import Cluster, attach
from cluster.host import bound_to, children, daemons_alive, folder

OBJECT_STORE = 100 << 20  # bytes; simulations never travel through it
TRIES = 3  # starts of Ray on a node
Started = TypeVar("Started")


@contextmanager
def head(
    address: str, num_cpus: int, memory: int | None = None, num_gpus: int | None = None
) -> Iterator[Cluster]:
    """Start Ray here, listening on an address of this machine; it ends with the block, and with this process.

    Ray gives its own agents 15 s to start, too few on busy cores or from a cold file system: the next try finds
    it warm.

    Args:
        memory: bytes for simulations; None: as Ray finds them.
        num_gpus: None: as Ray finds them.

    Raises:
        ConnectionError: Ray did not start, `TRIES` times.
    """
    with bound_to(address), folder() as place, ExitStack() as stack:

        def start() -> Cluster:
            connection = attach(
                _alive_once_started,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                _memory=memory,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _node_ip_address=address,
                _temp_dir=str(place),
            )
            return stack.enter_context(connection)

        yield again(start)


def again(start: Callable[[], Started]) -> Started:
    """Start something that may fail with a `ConnectionError`, at most `TRIES` times; no try leaves processes."""
    for _ in range(TRIES - 1):
        before = children()
        try:
            return start()
        except ConnectionError as error:
            for pid in children() - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            print(f"sbiflow: once more: {error}", file=sys.stderr, flush=True)
    return start()


def _alive_once_started() -> bool:
    """Ask for Ray's health, but not while it starts: that ends by itself, and is tried again."""
    import ray

    return not ray.is_initialized() or daemons_alive()
