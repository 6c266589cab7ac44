"""A connection of this process to Ray."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.guard import guard


@dataclass(frozen=True)
class RayCluster:
    """The resources of a Ray cluster: `cpus` cores, `memory` bytes and `gpus` GPUs on `nodes` machines.

    `alive` returns whether Ray still runs.
    """

    cpus: float
    memory: float
    nodes: int
    alive: Callable[[], bool]
    gpus: float = 0.0

    def capacity(self, cpus: float, memory: float | None, gpus: float = 0.0) -> int:
        """Return how many workers of that size fit at once, by the totals of all nodes."""
        room = int(self.cpus / cpus + 1e-9)
        if memory:
            room = min(room, int(self.memory / memory))
        return room if not gpus else min(room, int(self.gpus / gpus + 1e-9))


def no_address(address: str | None, backend: str) -> None:
    """Check that no address is given for a backend that starts Ray itself."""
    if address is not None:
        raise ValueError(
            f"cluster.address = {address!r} has no meaning for the backend {backend!r}; "
            "use cluster.backend=existing"
        )


def usable_cpus() -> int:
    """Return the cores this process may use (Ray itself does not see a batch system's core set)."""
    return len(os.sched_getaffinity(0))


@contextmanager
def attach(alive: Callable[[], bool], **options: Any) -> Iterator[RayCluster]:
    """Connect with `ray.init(**options)` and disconnect on leaving; reuse a connection that is there.

    From the first step to the last a guard ends this process when Ray is gone and a call to it hangs.

    Raises:
        ConnectionError: Ray could not be reached or started.
    """
    import ray

    if ray.is_initialized():
        yield _describe(alive)
        return
    with guard(alive) as over:
        with _signal_handlers_kept():
            _start(options)
        try:
            yield _describe(alive)
        finally:
            if alive():
                over.set()  # from here on its daemons may end
            ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(
            log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options
        )
    except Exception as error:  # Ray raises plain `Exception` when its daemons do not come up
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConnectionError(f"cannot start or reach Ray: {reason}") from error


def _describe(alive: Callable[[], bool]) -> RayCluster:
    import ray

    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    size = total.get("CPU", 0.0), total.get("memory", 0.0), nodes
    return RayCluster(*size, alive, total.get("GPU", 0.0))


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM that `ray.init` replaces: the stage decides how to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
