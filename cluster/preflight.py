"""Is a worker's code the driver's? Stale or foreign packages on a node fail at once, not after hours."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Facts:
    """Where a process runs and with what.

    `packages` {name: (folder, source digest)}, `versions` {distribution: version}.
    """

    node: str
    packages: dict[str, tuple[str, str]]
    versions: dict[str, str]


def facts(packages: Iterable[str], distributions: Iterable[str]) -> Facts:
    """Describe this process without importing the packages."""
    found = {name: (str(folder), source_digest(folder)) for name, folder in _folders(packages)}
    versions = {"python": platform.python_version()}
    for name in distributions:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return Facts(socket.gethostname(), found, versions)


def _folders(packages: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for name in packages:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield name, Path(next(iter(spec.submodule_search_locations)))


def source_digest(folder: Path) -> str:
    """Return the sha256 over the names and bytes of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def differences(driver: Facts, worker: Facts) -> list[str]:
    """Return one sentence for each package or version in which a worker is not like the driver."""
    found = []
    for name, (folder, digest) in driver.packages.items():
        there, other = worker.packages.get(name, ("nowhere", "absent"))
        if other != digest:
            found.append(
                f"package {name!r} on {worker.node} is {there} ({other[:12]}), "
                f"the driver's on {driver.node} is {folder} ({digest[:12]})"
            )
    for name, here in driver.versions.items():
        there = worker.versions.get(name, "not installed")
        if there != here:
            found.append(f"{name} on {worker.node} is {there}, the driver's is {here}")
    return found
