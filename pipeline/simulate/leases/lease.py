"""Leases: names in a folder of a shared file system, each held by at most one living process.

Every process has a heartbeat file `PROCESS.card`, which it touches several times per term. It takes the lease
of a name by a hard link `NAME.0` to this file, which the file system grants to one process alone. The link
shares the file's time, so that one touch renews all leases of a process. A lease has expired when its heartbeat
is older than the term, compared with a file touched just now on the same file system: local clocks do not
matter. An expired lease is taken over by a link `NAME.1`, later `NAME.2`. No link is removed or replaced, so
that no process can remove what another has just taken. When the work is done the link is renamed to
`NAME.done`.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pipeline.errors import PipelineError

BEATS = 6  # touches per term
ENDED = (0, 0)  # time of the heartbeat of a process that has ended


class LeaseLost(PipelineError):
    """This process sent no heartbeat for longer than a term, or its folder is gone: others continue its work."""


class LeaseTable:
    """The leases in a folder, as any process sees them."""

    def __init__(self, folder: Path, term: float) -> None:
        self.folder, self.term = folder, term

    def read(self) -> tuple[dict[str, int], set[str]]:
        """Return the latest generation of every name taken, and the names that are done; none without a folder."""
        taken: dict[str, int] = {}
        done = set()
        for entry in self._entries():
            name, _, suffix = entry.partition(".")
            if suffix == "done":
                done.add(name)
            elif suffix.isdecimal():
                taken[name] = max(taken.get(name, 0), int(suffix))
        return taken, done

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    def is_done(self, name: str) -> bool:
        return (self.folder / f"{name}.done").exists()

    def expired(self, leases: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
        """Yield name and last owner of the leases (name, generation) that have expired; none without a folder."""
        now = self._now()
        for name, generation in leases:
            heartbeat = _read(self.folder / f"{name}.{generation}")
            if heartbeat is not None and now - heartbeat[1] > self.term:
                yield name, heartbeat[0]

    def living(self) -> list[str]:
        """Return the names of all processes whose heartbeat has not expired; none without the folder."""
        now = self._now()
        files = [self.folder / name for name in self._entries() if name.endswith(".card")]
        found = [heartbeat for path in files if (heartbeat := _read(path)) is not None]
        return [name for name, touched in found if now - touched <= self.term]

    def _now(self) -> float:
        """Return the file system's time; minus infinity, at which nothing has expired, without the folder."""
        path = self.folder / f".clock-{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except FileNotFoundError:
            return -math.inf
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
            with suppress(FileNotFoundError):
                path.unlink()


class LeaseHolder(LeaseTable):
    """A process that takes leases: a context manager with a thread that touches its heartbeat file.

    Arguments:
        folder: of the leases.
        term: seconds without a heartbeat after which the leases of a process expire.
        name: of this process, unique.
        home: a folder of this process that others move away when its leases have expired; None: it has none.
    """

    def __init__(self, folder: Path, term: float, name: str, home: Path | None = None) -> None:
        super().__init__(folder, term)
        self.name, self.home = name, home
        self.heartbeat = folder / f"{name}.card"
        self.held: dict[str, int] = {}  # generation of each lease
        self._ended, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> LeaseHolder:
        partial = self.folder / f".{self.name}.partial"
        try:
            partial.write_text(self.name, encoding="utf-8")
            partial.rename(self.heartbeat)
        except FileNotFoundError:
            raise LeaseLost(f"{self.folder} is gone: the budget is complete") from None
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(FileNotFoundError):
            os.utime(self.heartbeat, ENDED)  # its leases expire at once
            self.heartbeat.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(self.term / BEATS):
            try:
                os.utime(self.heartbeat)
            except FileNotFoundError:
                self._lost = True
            except OSError:
                continue  # the server does not answer; if that lasts the leases expire
            self._lost |= self.home is not None and not self.home.exists()

    def check(self) -> None:
        """Raise `LeaseLost` if this process has lost its leases to others."""
        if self._lost:
            raise LeaseLost(
                f"{self.name} was silent for more than {self.term:g} s: others took over its work"
            )

    def take(self, name: str, generation: int = 0) -> bool:
        """Take the lease of a name, or its next generation; return whether this process holds it now."""
        if name in self.held:
            return False
        lease = self.folder / f"{name}.{generation}"
        try:
            os.link(self.heartbeat, lease)
        except FileExistsError:
            if not self._is_ours(lease):  # a server may give this answer to a repeated request
                return False
        except FileNotFoundError:
            return False  # the budget is complete, and the folder gone
        except OSError as error:
            raise PipelineError(
                f"cannot make the hard link {lease}: {error.strerror}; leases need a file system with "
                "hard links"
            ) from error
        if self.is_done(name):
            lease.unlink(missing_ok=True)
            return False
        self.held[name] = generation
        return True

    def _is_ours(self, lease: Path) -> bool:
        try:
            return os.path.samefile(self.heartbeat, lease)
        except FileNotFoundError:
            return False

    def done(self, name: str) -> None:
        """Mark the work of a name as complete and durable."""
        lease = self.folder / f"{name}.{self.held.pop(name)}"
        with suppress(FileNotFoundError):  # the budget is complete, and the folder gone
            lease.rename(lease.with_suffix(".done"))


def _read(path: Path) -> tuple[str, float] | None:
    """Return the name in a heartbeat file and when it was touched; None if there is no such file.

    A damaged file gives a name that no process has.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # asks the server, not a cache
            name, touched = file.read(), os.fstat(file.fileno()).st_mtime
            return re.sub(r"[^\w.-]", "_", name)[:200], touched
    except FileNotFoundError:
        return None
