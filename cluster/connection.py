"""A connection to Ray, whoever started it."""

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
class Cluster:
    """What Ray offers: `cpus` cores and `memory` bytes on `nodes` machines; `alive` asks whether it still runs."""

    cpus: float
    memory: float
    nodes: int
    alive: Callable[[], bool]

    def room(self, cpus: float, memory: float | None) -> int:
        """Return how many workers of that size fit at once, as far as totals tell."""
        by_cpus = int(self.cpus / cpus + 1e-9)
        return by_cpus if not memory else min(by_cpus, int(self.memory / memory))


def no_address(address: str | None, backend: str) -> None:
    """Refuse an address for a backend that makes its own Ray."""
    if address is not None:
        raise ValueError(
            f"cluster.address = {address!r} has no meaning for the backend {backend!r}; "
            "use cluster.backend=existing"
        )


def usable_cpus() -> int:
    """Return the cores this process may use (Ray itself does not see a batch system's core set)."""
    return len(os.sched_getaffinity(0))


@contextmanager
def attach(alive: Callable[[], bool], **options: Any) -> Iterator[Cluster]:
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
                over.set()  # from here on its daemons may go
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


def _describe(alive: Callable[[], bool]) -> Cluster:
    import ray

    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Cluster(total.get("CPU", 0.0), total.get("memory", 0.0), nodes, alive)


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Undo what `ray.init` does to SIGTERM: the stage decides how to leave."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
