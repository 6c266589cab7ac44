"""Files that survive a kill: synchronised, sealed with a checksum, errors that say what to do."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.run import write_whole
from pipeline.store.errors import DamagedError

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and repeat the command",
    errno.EDQUOT: "the quota is used up: free some space and repeat the command",
    errno.EROFS: "the folder is read-only: make it writable or use another one",
    errno.EACCES: "permission is missing: make the folder writable or use another one",
    errno.EPERM: "permission is missing: make the folder writable or use another one",
    errno.ENOENT: "it is gone: another process took the store over or deleted it",
    errno.ENOLCK: "this file system has no file locks: put the store on one that has",
    errno.EOPNOTSUPP: "this file system has no file locks: put the store on one that has",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while `path` is written into a `PipelineError` that says what to do."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "nothing that was finished is lost")
        reason = error.strerror or str(error)
        raise PipelineError(f"cannot write {error.filename or path}: {reason}; {advice}") from error


def synchronise(paths: Iterable[Path]) -> None:
    """Flush files and folders to the device; side by side, so that they share journal commits."""

    def flush(path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(flush, paths))


def canonical(value: Any) -> Any:
    """Return what JSON keeps of `value`: text keys, lists, and 1 for 1.0.

    Raises `TypeError` for something JSON cannot hold and `ValueError` for NaN, which equals nothing.
    """
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return canonical(value.tolist())
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("NaN is not allowed here")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) is not JSON")


def canonical_text(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def seal(content: dict[str, Any]) -> str:
    """Return the text of a document that carries the SHA-256 of its content."""
    checksum = hashlib.sha256(canonical_text(content).encode()).hexdigest()
    return json.dumps({**canonical(content), "checksum": checksum}, indent=1, ensure_ascii=False)


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed document whole."""
    with writing(path):
        write_whole(path, seal(content))


def read_document(path: Path) -> dict[str, Any]:
    """Return a sealed document's content; `DamagedError` if a single byte differs."""
    try:
        text = path.read_bytes().decode()
        content: dict[str, Any] = json.loads(text)
        content.pop("checksum")
        sound = seal(content) == text
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedError(f"{path} is damaged: its content does not match its checksum")
    return content
