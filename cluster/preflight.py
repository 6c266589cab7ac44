"""Compare a worker's code with the driver's: outdated packages on a node are found at once, not after hours."""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class CodeFingerprint:
    """Node, code and versions of a process.

    Attributes:
        node: name of the host.
        folders: path by package.
        sources: SHA-256 by file, with its package.
        versions: by distribution.
    """

    node: str
    folders: dict[str, str]
    sources: dict[str, str]
    versions: dict[str, str]


def fingerprint(
    packages: Iterable[str], distributions: Iterable[str], loaded: bool = False
) -> CodeFingerprint:
    """Describe this process without importing the packages.

    Arguments:
        packages: names of top-level packages whose sources count.
        distributions: names of installed distributions whose versions count.
        loaded: whether only the modules imported so far count; changes of others do not affect a worker.
    """
    folders = {name: folder for name in packages if (folder := _folder(name)) is not None}
    sources = {
        f"{name}/{path.relative_to(folder).as_posix()}": hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for name, folder in folders.items()
        for path in (_loaded(folder) if loaded else sorted(folder.rglob("*.py")))
    }
    versions = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in distributions}
    places = {name: str(folder) for name, folder in folders.items()}
    return CodeFingerprint(socket.gethostname(), places, sources, versions)


def differences(driver: CodeFingerprint, worker: CodeFingerprint) -> list[str]:
    """Return one sentence for each source file or version in which a worker differs from the driver."""
    found = []
    for file, digest in worker.sources.items():
        expected = driver.sources.get(file, "absent")
        if digest != expected:
            package = file.partition("/")[0]
            found.append(
                f"{file} in {worker.folders[package]} on {worker.node} is {digest[:12]}, "
                f"in {driver.folders.get(package, 'no folder')} of the driver on {driver.node} {expected[:12]}"
            )
    for name, here in driver.versions.items():
        there = worker.versions.get(name, "not installed")
        if there != here:
            found.append(f"{name} on {worker.node} is {there}, the driver's is {here}")
    return found


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _loaded(folder: Path) -> list[Path]:
    """Return the source files below a folder that this process has imported."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    paths = sorted(Path(file) for file in files if file)
    return [path for path in paths if path.suffix == ".py" and path.is_relative_to(folder)]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
