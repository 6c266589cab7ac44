"""A Ray that runs already: `ray start --head` on this machine, or any cluster's address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.connection import PATIENCE, Cluster, attach


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the Ray at `address` ("host:port", or "auto" for one on this machine); see `cluster.connect`.

    Raises:
        ValueError: no address was given.
        ConnectionError: nothing answers there.
    """
    if not address:
        raise ValueError(
            "cluster.address is missing: the backend 'existing' needs 'host:port', or 'auto'"
        )
    with attach(_head_answers, address=address) as found:
        yield found


def _head_answers() -> bool:
    from ray._private import worker

    try:
        worker.global_worker.gcs_client.internal_kv_exists(
            b"sbiflow", namespace=None, timeout=PATIENCE
        )
    except Exception:  # whatever the transport raises, the head did not answer
        return False
    return True
