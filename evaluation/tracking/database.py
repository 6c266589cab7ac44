"""A run's own MLflow database as a file: made whole or not at all, and never believed when it is damaged."""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUSY = 20.0  # seconds to wait for another process, as MLflow does
TABLES = {"alembic_version", "experiments", "latest_metrics", "metrics", "params", "runs", "tags"}
COMPANIONS = ("", "-journal", "-wal", "-shm")  # what SQLite puts beside a database
OUTSIDE = {  # errors that say nothing about the database
    sqlite3.SQLITE_BUSY: "another process uses it",
    sqlite3.SQLITE_LOCKED: "another process uses it",
    sqlite3.SQLITE_PERM: "permission is missing",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
}


def outside(error: BaseException | None) -> str:
    """Return why a database cannot be used though it may be sound; empty where the error is its own."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            return OUTSIDE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "")
        if isinstance(error, OSError):
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return ""


def problem(path: Path) -> str:
    """Return what is wrong with a database's file; empty where it is sound.

    Raises:
        OSError: it cannot be looked at.
    """
    if not path.is_file():
        return "it is no file"
    try:
        address = f"{path.resolve().as_uri()}?mode=rw"  # what a kill left is rolled back
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY)) as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if missing := TABLES - {name for (name,) in tables}:
                return f"it has no table {min(missing)}"
            (versions,) = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        if reason := outside(error):
            raise OSError(f"{path}: {reason}") from error
        return str(error)
    if found != "ok":
        return " ".join(found.split())
    return "" if versions == 1 else "its creation was interrupted"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from building or completing the database."""
    with open(path.with_suffix(".lock"), "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def set_aside(path: Path) -> Path:
    """Give a database another name, with what belongs to it, and return that."""
    numbers = itertools.count(1)
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in numbers)
    aside = next(name for name in names if not name.exists())
    for end in reversed(COMPANIONS):
        if (old := path.with_name(path.name + end)).exists():
            old.rename(aside.with_name(aside.name + end))
    return aside


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """Yield the place of a new database, which gets its name when it is complete; call it while `locked`."""
    for old in path.parent.glob(f".{path.name}.*.part*"):  # of a process that was killed
        old.unlink()
    part = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        for end in COMPANIONS[1:]:  # of a database that is gone
            path.with_name(path.name + end).unlink(missing_ok=True)
        os.replace(part, path)
    finally:
        for end in COMPANIONS:
            part.with_name(part.name + end).unlink(missing_ok=True)
