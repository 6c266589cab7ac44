"""A Ray that runs already: `ray start --head` on this machine, or any cluster's address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.connection import Cluster, attach

KNOCK = 5.0  # seconds for the head node to accept a connection


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
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
        _knock(address)
    with attach(head_answers, address=address) as found:
        yield found


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise ValueError(f"cluster.address = {address!r}: valid are 'host:port' and 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {error}") from error


def head_answers() -> bool:
    """Ask whether somebody listens where the head node is; true before its address is known."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return True
    try:
        _knock(node.gcs_address)
    except ConnectionError:
        return False
    return True
