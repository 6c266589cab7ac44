"""Temporary folders that are removed with their process, or by the next process that makes one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pipeline.locks import lock, try_lock

LOCK = "lock"  # a file in the folder, locked as long as its process lives
OLD = 86400.0  # seconds; an older folder without this file was left by a version that made none


def notes_folder(shared: Path | None = None) -> AbstractContextManager[Path]:
    """Make a folder for the notes of workers (`pipeline.simulate.note`).

    Arguments:
        shared: a folder that all nodes see, where the new one is made; None: the temporary folder of this machine.
    """
    if shared is not None:
        return scratch(shared, ".notes-")
    return scratch(Path(tempfile.gettempdir()), "sbiflow-notes-")


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder for as long as the context lasts, after removing those of dead processes.

    A killed worker may still write there while the folder is removed: what remains does no harm.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{prefix}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    with open(new / LOCK, "w", encoding="utf-8") as file:
        lock(file)  # before others can see the folder under its name
        folder = new.rename(parent / f"{prefix}{new.name.removeprefix('.new-')}")
        try:
            yield folder.resolve()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether a process of this user made the folder and ended without removing it."""
    try:
        status = folder.lstat()
        if status.st_uid != os.getuid() or folder.is_symlink():
            return False
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return folder.exists() and time.time() - status.st_mtime > OLD
    except OSError:
        return False
    try:
        return try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
