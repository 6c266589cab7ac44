"""The run directory: where every stage finds what the others left."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import LockedError, UsageError

STREAMS = ("train", "test")  # position = number of the random stream
NAME_LOOKS, NAME_PAUSE = 20, 0.05  # how often, and seconds between, a lock is asked for its holder


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Run:
    """Paths of one run; see `docs/architecture.md` for the layout."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yml"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{(self.path / 'mlflow.db').resolve()}"

    def store(self, stream: str) -> Path:
        return self.path / "store" / stream

    def training(self, key: str) -> Path:
        return self.path / "trainings" / key

    @property
    def latest(self) -> str:
        """Key of the training that commands without a name refer to."""
        try:
            return str(self.read_latest()["training"])
        except FileNotFoundError:
            raise UsageError(f"{self.path} has no training yet: run `sbiflow train`") from None

    def read_latest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.path / "latest.json").read_text())
        return loaded

    def write_latest(self, key: str) -> None:
        write_whole(self.path / "latest.json", json.dumps({"training": key}))

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Hold the run for one driver; a new run that ends in a `UsageError` leaves nothing behind.

        Args:
            shared: with others that say so, too.

        Raises:
            LockedError: another process works on this run; the message names it.
        """
        new = not self.path.exists() and not shared
        try:
            with self._locked(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                yield
        except UsageError:
            if new:
                shutil.rmtree(self.path)
            raise

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except OSError:
                message = f"{self.path} is in use by {_holder(file)}; wait for it"
                raise LockedError(message) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


def _holder(file: TextIO) -> str:
    """Return the name in a lock that another process holds, who may be about to write it."""
    for _ in range(NAME_LOOKS):
        file.seek(0)
        if name := file.read().strip():
            return name
        time.sleep(NAME_PAUSE)
    return "another process"
