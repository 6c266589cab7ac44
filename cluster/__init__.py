"""Connections to Ray, and submission of jobs to batch systems.

To add a backend: one file with a `connect(address, cpus)` context manager that yields a `RayCluster`, one line in
`BACKENDS`, one test. A backend for a batch system has the functions of `System` as well.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cluster.allocation import Grant
    from cluster.batch import Job, JobState
    from cluster.connection import RayCluster

# Ray reads these when it is imported, which is always after this package.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "300000",  # else 30 s, too few on a cold file system
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_task_events_shutdown_flush_timeout_ms": "500",  # else 5 s, if Ray is dead when we leave
    "RAY_memory_monitor_refresh_ms": "0",  # it would end an agent, not the worker that grew
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",  # said on stdout; we report deaths
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

BACKENDS = {
    "existing": "cluster.existing:connect",
    "kubernetes": "cluster.kubernetes:connect",
    "local": "cluster.local:connect",
    "lsf": "cluster.lsf:connect",
    "pbs": "cluster.pbs:connect",
    "slurm": "cluster.slurm:connect",
}


EXPERIMENTAL = (
    "kubernetes",
    "lsf",
    "pbs",
)  # tested on the text of their jobs, never on such a cluster


class System(Protocol):
    """A batch system: a module with these functions."""

    CHAINS: (
        bool  # whether a job can wait for another's success, and be queued again under its own id
    )

    def script(self, job: Job) -> str:
        """Return the job's script."""

    def submit(self, path: Path, after: str | None = None, success: bool = True) -> str:
        """Submit a script, to start after another job's success, or only its end; return the job's id."""

    def states(self, ids: Iterable[str]) -> dict[str, JobState]:
        """Return the known states of jobs."""

    def cancel(self, ids: Iterable[str]) -> None:
        """Remove jobs from the queue, or end them."""

    def granted(self, environment: Mapping[str, str]) -> Grant:
        """Return what the job that has these variables may use on this node."""


def available() -> list[str]:
    """Return the names of the built-in backends."""
    return sorted(BACKENDS)


def systems() -> list[str]:
    """Return the names of the built-in batch systems."""
    return [name for name in available() if hasattr(_module(BACKENDS[name]), "script")]


def caution(backend: str) -> str:
    """Return a warning for the user who chooses a backend; an empty text where there is none."""
    if backend not in EXPERIMENTAL:
        return ""
    return (
        f"cluster.backend={backend} is experimental: its jobs were tested as text, not on such a cluster; "
        "look at them first with `sbiflow submit --dry-run`"
    )


def system(name: str) -> System:
    """Return the batch system of that name, a built-in one or "module:attribute".

    Raises:
        LookupError: no batch system has that name.
    """
    module: System = _module(_target(name))
    if not hasattr(module, "script"):
        raise LookupError(f"cluster.backend {name!r} is no batch system; valid: {systems()}")
    return module


def connect(
    backend: str = "local", address: str | None = None, cpus: int | None = None
) -> AbstractContextManager[RayCluster]:
    """Return a context manager that connects this process to Ray and yields the `RayCluster`.

    Nested contexts of one process share the connection of the outermost.

    Arguments:
        backend: a name of `available()`, or "module:attribute".
        address: of a running Ray, for backends that need one.
        cpus: cores to offer, for backends that start Ray; none: all of this process.

    Raises:
        LookupError: no backend has that name.
        ValueError: the backend needs an address, or takes none.
        ConnectionError: Ray could not be reached or started.
    """
    target = _target(backend)
    manager: AbstractContextManager[RayCluster] = getattr(
        _module(target), target.partition(":")[2]
    )(address, cpus)
    return manager


def _target(name: str) -> str:
    target = BACKENDS.get(name, name)
    if ":" not in target:
        close = difflib.get_close_matches(name, BACKENDS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LookupError(f"unknown cluster backend {name!r}; {hint}valid: {available()}")
    return target


def _module(target: str) -> Any:
    return import_module(target.partition(":")[0])
