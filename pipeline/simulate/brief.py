"""Whether the work takes seconds, so that child processes do it and Ray need not be started."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from cluster.connection import RayCluster, usable_cpus
from pipeline.simulate.work import Work
from pipeline.stop import Stop
from pipeline.store import Rows

BRIEF = 10.0  # seconds of work
LEAST = 3.0  # seconds before the rest is estimated: first simulations are slow


def begins_here(config: Any, known: Rows | None, ids: int) -> bool:
    """Whether child processes of this one begin the work.

    Arguments:
        config: the configuration; `simulate.ray` decides if it is not null.
        known: simulations of the same simulator whose run time is known.
        ids: how many there are to do.
    """
    if config.simulate.ray is not None:
        return not config.simulate.ray
    if (
        _ray_is_there()
        or config.cluster.backend != "local"
        or config.simulate.memory
        or config.simulate.gpus
    ):
        return False
    workers = config.simulate.workers or max(1, int(usable_cpus() / config.simulate.cpus))
    return known is None or float(known.seconds.mean()) * ids / workers < BRIEF


def _ray_is_there() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def this_machine() -> RayCluster:
    """Return what child processes may use."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return RayCluster(usable_cpus(), installed, 1, lambda: True)


class Brief:
    """A request to stop that also comes when the rest of the work takes longer than `BRIEF` seconds.

    Arguments:
        stop: the request of the user.
        work: what is to be done.
        workers: how many do it.
    """

    def __init__(self, stop: Stop, work: Work, workers: int) -> None:
        self.stop, self.work, self.workers = stop, work, workers
        self._began = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether the driver is to leave."""
        if self.stop.requested:
            return True
        seconds, spent = self.work.seconds, time.monotonic() - self._began
        if seconds is None:  # not even one simulation is finished
            return spent > BRIEF
        return spent > LEAST and seconds * self.work.keys / self.workers > BRIEF
