"""Ray's head node in this process; its start is repeated if it fails."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from cluster.connection import RayCluster, attach
from cluster.host import bound_to, children, daemons_alive, folder
from cluster.text import shown

OBJECT_STORE = 100 << 20  # bytes; simulations never travel through it
TRIES = 3  # starts of Ray on a node
Started = TypeVar("Started")


@contextmanager
def head(
    address: str, num_cpus: int, memory: int | None = None, num_gpus: int | None = None
) -> Iterator[RayCluster]:
    """Start Ray here, listening on an address of this machine; it ends with the block, and with this process.

    Ray gives its own agents 15 s to start, which may not suffice on busy cores or from a cold file system; a
    second try is faster.

    Arguments:
        memory: bytes for simulations; None: as Ray finds them.
        num_gpus: None: as Ray finds them.

    Raises:
        ConnectionError: Ray did not start, `TRIES` times.
    """
    with bound_to(address), folder() as place, ExitStack() as stack:

        def start() -> RayCluster:
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
    """Call `start`, at most `TRIES` times where it raises a `ConnectionError`, and kill what failed tries left."""
    for _ in range(TRIES - 1):
        before = children()
        try:
            return start()
        except ConnectionError as error:
            for pid in children() - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            print(f"sbiflow: trying again: {shown(error)}", file=sys.stderr, flush=True)
    return start()


def _alive_once_started() -> bool:
    """Whether Ray runs; true while it starts, since a failed start raises an error and is repeated."""
    import ray

    return not ray.is_initialized() or daemons_alive()
