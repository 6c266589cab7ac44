"""Where Ray comes from.

To add a backend: one file with a `connect(address, cpus)` context manager that yields a `Cluster`, one line in
`BACKENDS`, one test.
"""

from __future__ import annotations

import difflib
import os
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.connection import Cluster

# Ray reads these when it is imported, which is always after this package.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",  # said on stdout; we report deaths
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

BACKENDS = {
    "existing": "cluster.existing:connect",
    "local": "cluster.local:connect",
}


def available() -> list[str]:
    """Return the names of the built-in backends."""
    return sorted(BACKENDS)


def connect(
    backend: str = "local", address: str | None = None, cpus: int | None = None
) -> AbstractContextManager[Cluster]:
    """Return a context manager that connects this process to Ray and yields the `Cluster`.

    Within one process the innermost of nested contexts reuses the connection of the outermost.

    Args:
        backend: a name of `available()`, or "module:attribute".
        address: of a running Ray, for backends that need one.
        cpus: cores to offer, for backends that start Ray; none: all of this process.

    Raises:
        LookupError: no backend has that name.
        ValueError: the backend needs an address, or takes none.
        ConnectionError: Ray could not be reached or started.
    """
    target = BACKENDS.get(backend, backend)
    module, colon, attribute = target.partition(":")
    if not colon:
        close = difflib.get_close_matches(backend, BACKENDS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LookupError(f"unknown cluster backend {backend!r}; {hint}valid: {available()}")
    manager: AbstractContextManager[Cluster] = getattr(import_module(module), attribute)(
        address, cpus
    )
    return manager
