"""A Ray cluster that runs already, on this machine or at any address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.connection import RayCluster, attach

CONNECT = 5.0  # seconds for the head node to accept a connection


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RayCluster]:
    """Connect to the Ray at `address` ("host:port", or "auto" for one on this machine); see `cluster.connect`.

    Raises:
        ValueError: no address was given, or it is none.
        ConnectionError: nothing answers there.
    """
    if not address:
        raise ValueError(
            "cluster.address is missing: the backend 'existing' needs 'host:port', or 'auto'"
        )
    if address != "auto":
        _check_listening(address)
    with attach(head_answers, address=address) as found:
        yield found


def _check_listening(address: str) -> None:
    """Fail at once where no process listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise ValueError(f"cluster.address = {address!r}: valid are 'host:port' and 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {error}") from error


def head_answers() -> bool:
    """Whether a process listens at the head node's address; true before the address is known."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return True
    try:
        _check_listening(node.gcs_address)
    except ConnectionError:
        return False
    return True
