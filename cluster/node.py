"""The agent on a job's other nodes: `python -m cluster.node SYSTEM FOLDER` joins this node to the job's Ray.

It ends when the head removes its address, when Ray ends, or on a signal of the batch system. Ray's daemons on this
node end with it, also when it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import cluster
from cluster.allocation import HEAD, PATIENCE, POLL, Grant, NodeCard
from cluster.head import OBJECT_STORE, again
from cluster.host import address_towards, bound_to, folder
from cluster.text import shown


class _Terminated(Exception):
    """The batch system sent SIGTERM."""


def main() -> None:
    """Join Ray until the head ends."""
    name, place = sys.argv[1], Path(sys.argv[2])
    signal.signal(signal.SIGTERM, _terminate)
    try:
        join(place, cluster.system(name).granted(os.environ))
    except _Terminated:
        return
    except ConnectionError as error:
        sys.exit(f"sbiflow: {shown(error)}")


def join(place: Path, grant: Grant) -> None:
    """Add this node to the Ray cluster that the head of this job starts.

    Raises:
        ConnectionError: the folder is not visible here, or the head does not start Ray.
    """
    card = NodeCard.own(grant)
    if not place.is_dir():
        raise ConnectionError(
            f"{place} is not visible on {card.host}: the run must be on a file system that all nodes share"
        )
    try:
        card.write(place)
    except FileNotFoundError:  # the job has ended meanwhile
        return
    head = _head(place)
    if head is None:
        return
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head["token"]}
    own = address_towards(head["address"].rpartition(":")[0])
    with bound_to(own), folder() as temporary:
        node = again(lambda: _daemons(head["address"], own, temporary, grant))
        try:
            while (place / HEAD).exists() and not node.dead_processes():
                time.sleep(POLL)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
            node.kill_all_processes(check_alive=False, allow_graceful=True)


def _head(place: Path) -> dict[str, Any] | None:
    """Wait for the head's address; None if the job ends before."""
    deadline = time.monotonic() + 2 * PATIENCE
    while place.is_dir():
        try:
            values: dict[str, Any] = json.loads((place / HEAD).read_text(encoding="utf-8"))
            return values
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise ConnectionError("the first node of this job did not start Ray") from None
            time.sleep(POLL)
    return None


def _daemons(address: str, own: str, temporary: Path, grant: Grant) -> Any:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    parameters = RayParams(
        gcs_address=address,
        node_ip_address=own,
        temp_dir=str(temporary),
        object_store_memory=OBJECT_STORE,
        include_log_monitor=False,
        min_worker_port=0,
        max_worker_port=0,
        **grant.options(),
    )
    try:
        return Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=True)
    except Exception as error:  # Ray raises plain `Exception` when its daemons do not come up
        raise ConnectionError(f"Ray does not start on this node: {error}") from error


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


if __name__ == "__main__":
    main()
