"""The run directory: where every stage finds what the others left."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.errors import DamagedError, LockedError, PipelineError, UsageError
from pipeline.files import read_document, write_document
from pipeline.locks import try_lock

LATEST = "latest.json"  # names the training that commands without a name refer to
STREAMS = ("train", "test")  # position = number of the random stream
PARTIAL = re.compile(
    r"\..+\.([a-z0-9_]{8}|\d+)"
)  # how `pipeline.files` names what it has not finished
PARTIAL_SECONDS = 3600.0  # after which nobody writes on
NAME_LOOKS, NAME_PAUSE = 20, 0.05  # how often, and seconds between, a lock is asked for its holder


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run; see `docs/architecture.md` for the layout."""

    path: Path

    def __post_init__(self) -> None:
        """Make the path absolute, once for all: a simulator may change the working directory."""
        object.__setattr__(self, "path", self.path.absolute())

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
    def environment(self) -> Path:
        return self.path / "environment.txt"

    @property
    def database(self) -> Path:
        return self.path.resolve() / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.database}"

    def store(self, stream: str) -> Path:
        """Return the folder of a store: of `train`, of `test`, or `abc-KEY` of an ABC run."""
        kind, _, key = stream.partition("-")
        return self.abc(key) / "store" if kind == "abc" and key else self.path / "store" / stream

    def abc(self, key: str) -> Path:
        """Return the folder of an ABC run."""
        return self.path / "abc" / key

    def training(self, key: str) -> Path:
        """Return the folder of a training; a `DamagedError` for what is no name of one, such as a path."""
        if not re.fullmatch(r"\w[\w.-]*", key):
            raise DamagedError(f"{key!r} is no training of {self.path}")
        return self.path / "trainings" / key

    def read_latest(self) -> str:
        """Return what `latest.json` names; a `DamagedError` unless it is a training of this run."""
        path = self.path / LATEST
        content = read_document(path, unsealed=True)
        key = content.get("training") if isinstance(content, dict) else None
        if not isinstance(key, str) or not self.training(key).is_dir():
            raise DamagedError(f"{path} names {key!r}, which is no training of this run")
        return key

    def write_latest(self, key: str) -> None:
        write_document(self.path / LATEST, {"format": 1, "training": key})

    def presence(self) -> Presence:
        """Return what notices that the run is deleted while a stage works on it; made when the stage begins."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / "lock"
        return Presence(self.path, lock if lock.exists() else self.path)

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Hold the run for one driver; a new run that ends in a `UsageError` is removed.

        Arguments:
            shared: together with other processes that hold it as shared.

        Raises:
            LockedError: another process works on this run; the message names it.
        """
        new = not self.path.exists() and not shared
        try:
            with self._locked(shared):
                yield
        except UsageError:
            if new:
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        except Exception:
            Presence(self.path, self.path / "lock").there()  # this is why, where it is gone
            raise

    def in_use(self) -> bool:
        """Return whether a process works on this run."""
        try:
            with open(self.path / "lock", encoding="utf-8") as file:
                return not try_lock(file)
        except OSError:
            return False

    @contextmanager
    def _locked(self, shared: bool) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a+", encoding="utf-8") as file:
            if not try_lock(file, shared):
                raise LockedError(f"{self.path} is in use by {_holder(file)}; wait for it")
            if not shared:
                self._sweep()
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def _sweep(self) -> None:
        """Remove what killed processes have begun to write; commands that take no lock write for seconds."""
        places = (".", "references", "store/*", "trainings/*", "trainings/*/*")
        for path in (file for place in places for file in self.path.glob(f"{place}/.*.*")):
            if PARTIAL.fullmatch(path.name) and path.is_file():
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > PARTIAL_SECONDS:
                        path.unlink()


@dataclass(frozen=True)
class Presence:
    """A run at work, there as long as one of its files is: `rm -r` may leave others that are written meanwhile."""

    path: Path
    file: Path

    def there(self) -> bool:
        """Return True; `PipelineError` where the run is gone."""
        if not self.file.exists():
            what = "it was deleted or moved while this process worked on it"
            raise PipelineError(f"{self.path} is gone: {what}")
        return True


def _holder(file: TextIO) -> str:
    """Return the name in a lock that another process holds, who may be about to write it."""
    for _ in range(NAME_LOOKS):
        file.seek(0)
        if name := file.read().strip():
            return name
        time.sleep(NAME_PAUSE)
    return "another process"
