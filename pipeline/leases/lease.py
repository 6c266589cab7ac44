"""Leases: names in a folder of a shared file system, each held by at most one living process.

Whoever takes part leaves a card, a file that it touches several times per term. A name is taken by a hard link
`NAME.0` to the card, which a file system grants to one process alone. The link shares the card's time, so one
touch prolongs all leases of a process. A lease is expired when its card is older than the term, compared with a
file touched just now on the same file system: no local clock counts. Taking over an expired lease is
a link `NAME.1`, later `NAME.2`: no link is removed or replaced, so that nobody can remove what another has just
taken. When the work is done the link becomes `NAME.done`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pipeline.errors import PipelineError

BEATS = 6  # touches per term
GONE = (0, 0)  # time of the card of a process that has left


class Lost(PipelineError):
    """This process was silent for longer than a term, or its folder is gone: others go on with its work."""


class Board:
    """The leases in a folder, seen by anyone."""

    def __init__(self, folder: Path, term: float) -> None:
        self.folder, self.term = folder, term

    def look(self) -> tuple[dict[str, int], set[str]]:
        """Return the generation of every name that was taken, and the names that are done; none if all is gone."""
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
        """Yield name and last owner of those leases (name, generation) that are expired; none if all is gone."""
        now = self._now()
        for name, generation in leases:
            card = _read(self.folder / f"{name}.{generation}")
            if card is not None and now - card[1] > self.term:
                yield name, card[0]

    def living(self) -> list[str]:
        """Return the owners of all cards that are not expired; none if all is gone."""
        now = self._now()
        cards = [_read(self.folder / name) for name in self._entries() if name.endswith(".card")]
        return [card[0] for card in cards if card is not None and now - card[1] <= self.term]

    def _now(self) -> float:
        """Return the file system's time; where the folder is gone, one at which nothing counts as old."""
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


class Holder(Board):
    """A process that takes leases; a context manager with a thread that touches its card.

    Args:
        name: on the card, unique.
        home: a folder of this process that others take away when they believe it dead; None: it has none.
    """

    def __init__(self, folder: Path, term: float, name: str, home: Path | None = None) -> None:
        super().__init__(folder, term)
        self.name, self.home = name, home
        self.card = folder / f"{name}.card"
        self.held: dict[str, int] = {}  # generation of each lease
        self._over, self._lost = threading.Event(), False
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Holder:
        partial = self.folder / f".{self.name}.partial"
        try:
            partial.write_text(self.name, encoding="utf-8")
            partial.rename(self.card)
        except FileNotFoundError:
            raise Lost(f"{self.folder} is gone: all is done") from None
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._heart.join()
        with suppress(FileNotFoundError):
            os.utime(self.card, GONE)  # what was not done is free at once
            self.card.unlink()

    def _beat(self) -> None:
        while not self._over.wait(self.term / BEATS):
            try:
                os.utime(self.card)
            except FileNotFoundError:
                self._lost = True
            except OSError:
                continue  # a server that does not answer; others will notice if it lasts
            self._lost |= self.home is not None and not self.home.exists()

    def check(self) -> None:
        """Raise `Lost` if others have taken this process for dead."""
        if self._lost:
            raise Lost(f"{self.name} was silent for more than {self.term:g} s: others took over")

    def take(self, name: str, generation: int = 0) -> bool:
        """Take a name that nobody holds, or its next generation; return whether it is ours."""
        if name in self.held:
            return False
        lease = self.folder / f"{name}.{generation}"
        try:
            os.link(self.card, lease)
        except FileExistsError:
            if not self._same(lease):  # a server may answer a repeated request so
                return False
        except FileNotFoundError:
            return False  # all is done, and the folder gone
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

    def _same(self, lease: Path) -> bool:
        try:
            return os.path.samefile(self.card, lease)
        except FileNotFoundError:
            return False

    def done(self, name: str) -> None:
        """Say that the work of a name is complete and durable."""
        lease = self.folder / f"{name}.{self.held.pop(name)}"
        with suppress(FileNotFoundError):  # all is done, and the folder gone
            lease.rename(lease.with_suffix(".done"))


def _read(path: Path) -> tuple[str, float] | None:
    """Return the name on a card and when it was touched; None if it is gone."""
    try:
        with open(path, encoding="utf-8") as file:  # opening asks the server, not a cache
            return file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
