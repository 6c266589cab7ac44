"""The journal of a run: one JSON object per line; lines are only appended and hold a hash of the one before.

MLflow is written from the journal, never the other way. A line ends with two keys:

    previous    the `chain` of the line before; in the first line, or after lines of earlier versions: a hash of
                all bytes before
    chain       a hash of the line up to here

A changed line does not match its own hash; a removed, added or moved one does not match its neighbours. A line
that a kill cut short does not count: the next writer removes it. Lines missing at the end do not show in the
file: compare `end` with a noted one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = 32  # of a hash
TAIL = 8192  # bytes that are read to find the last line; more where it is longer
SEAL = re.compile(rb', "previous": "([0-9a-f]{32})", "chain": "([0-9a-f]{32})"}$')
SEAL_LENGTH = len(', "previous": "", "chain": ""}') + 2 * DIGITS
CHAIN = ', "chain": "{}"}}'
REPAIRED = "journal repaired"

Event = dict[str, Any]


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written into the journal: {value!r}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Line:
    """A line of the file.

    Attributes:
        text: its bytes.
        previous: hash of what comes before; None where `chain` is.
        chain: its own hash; None where it has none, or a wrong one.
    """

    text: bytes
    previous: str | None = None
    chain: str | None = None

    @classmethod
    def of(cls, text: bytes) -> Line:
        """Return a line of the file, with its hashes where the second one is right."""
        found = SEAL.search(text, max(0, len(text) - SEAL_LENGTH))
        if found and _hash(text[: -len(CHAIN.format(found[2].decode()))]) == found[2].decode():
            return cls(text, found[1].decode(), found[2].decode())
        return cls(text)

    @property
    def event(self) -> Event | None:
        """The event of an intact line, or of one of earlier versions, which have no chain."""
        try:
            event = json.loads(self.text)
        except ValueError:
            return None
        if not isinstance(event, dict) or ("chain" in event and not self.chain):
            return None
        return {key: event[key] for key in event if key not in ("previous", "chain")}


@dataclass(frozen=True)
class Content:
    """The content of a journal.

    Attributes:
        events: of the intact lines, in order.
        damage: what is wrong, in words.
        identity: a name of the run, which follows from its first event; "" where there is none.
        end: `chain` of the last line; "" where it has none.
        chains: those of all lines.
    """

    events: list[Event]
    damage: list[str]
    identity: str
    end: str
    chains: frozenset[str]

    def expecting(self, end: str) -> Content:
        """Return the content, damaged if a line with the chain `end` is missing; "" expects none."""
        if not end or end in self.chains:
            return self
        return replace(self, damage=[*self.damage, "lines at its end are missing"])


class Journal:
    """Events in the order in which they happened.

    Arguments:
        path: of the file.
        end: `chain` of a line that was the last at some time, and must still be there.
    """

    def __init__(self, path: Path, end: str = "") -> None:
        self.path, self.end = path, end

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event with its time; a reader sees all of it or nothing.

        Raises:
            TypeError: a value cannot be written as JSON.
        """
        stamped = _stamped(event)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as handle:
            line = _sealed(stamped, _close(handle))
            written = os.write(handle, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def content(self) -> Content:
        """Return the intact events, and what is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        return _read(content).expecting(self.end)

    def read(self) -> list[Event]:
        """Return the intact events."""
        return self.content().events

    def mend(self) -> tuple[Path, list[str]] | None:
        """Rename a damaged journal and begin a new one with its intact events; a last event lists the damage.

        Returns:
            The path of the damaged one and the damage; None where there is none.
        """
        if not self.content().damage:
            return None
        with self._locked():
            content, aside = self.content(), _free(self.path)
            if not content.damage:  # another process was faster
                return None
            shutil.copyfile(self.path, aside)
            repaired = {"event": REPAIRED, "identity": content.identity, "damage": content.damage}
            part = self.path.with_name(f".{self.path.name}.part")
            with part.open("wb") as file:
                file.write(_chained([*content.events, _stamped(repaired)]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        return aside, content.damage

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Lock the file for this writer; open it again if another writer has mended it meanwhile."""
        held = False
        while not held:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                with suppress(FileNotFoundError):
                    held = os.path.samestat(os.fstat(handle), os.stat(self.path))
                if held:
                    yield handle
            finally:
                os.close(handle)


# --- writing -----------------------------------------------------------------------------------


def _stamped(event: Mapping[str, Any]) -> str:
    """Return an event with its time as JSON."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, **event}, default=_plain)


def _sealed(event: str, previous: str) -> bytes:
    text = f'{event[:-1]}, "previous": "{previous}"'
    return f"{text}{CHAIN.format(_hash(text.encode()))}\n".encode()


def _chained(events: Iterable[Event | str]) -> bytes:
    lines, previous = [], _hash(b"")
    for event in events:
        text = event if isinstance(event, str) else json.dumps(event)
        lines.append(_sealed(text, previous))
        previous = str(Line.of(lines[-1][:-1]).chain)
    return b"".join(lines)


def _free(path: Path) -> Path:
    """Return a new name beside the journal for a damaged one."""
    numbers = itertools.count(1)
    names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in numbers)
    return next(name for name in names if not name.exists())


def _close(handle: int) -> str:
    """Remove a line that was cut short from the end of the file; return `previous` of the next line."""
    size, length = os.fstat(handle).st_size, TAIL
    while True:
        tail = os.pread(handle, length, max(0, size - length))
        if length >= size or tail.count(b"\n") > 1:
            break
        length *= 8
    whole, _, rest = tail.rpartition(b"\n")
    if chain := Line.of(rest).chain:  # only its end is missing
        os.write(handle, b"\n")
        return chain
    if rest:
        os.ftruncate(handle, size - len(rest))
    last = whole.rpartition(b"\n")[2]
    return Line.of(last).chain or _hash(os.pread(handle, size - len(rest), 0))


# --- reading -----------------------------------------------------------------------------------


def _read(content: bytes) -> Content:
    lines = [Line.of(text) for text in content.split(b"\n")]
    if not lines[-1].chain:
        lines.pop()  # cut short
    first = next((number for number, line in enumerate(lines) if line.chain), len(lines))
    old = sum(len(line.text) + 1 for line in lines[:first])
    intact = first == len(lines) or lines[first].previous == _hash(content[:old])
    damage = list(_damage(lines, first, intact))
    unique = {line.chain or number: line for number, line in enumerate(lines)}
    intact_lines = (line for key, line in unique.items() if line.chain or int(key) < first)
    events = [event for line in intact_lines if (event := line.event) is not None]
    identity = _identity(lines, events, intact and first > 0)
    chains = frozenset(line.chain for line in lines if line.chain)
    return Content(events, damage, identity, (lines[-1].chain or "") if lines else "", chains)


def _damage(lines: list[Line], first: int, intact: bool) -> Iterator[str]:
    """Yield what is wrong.

    Arguments:
        lines: of the file.
        first: number of the first line that has a chain.
        intact: whether the lines before it match its hash.
    """
    changed = [number for number, line in enumerate(lines[:first], 1) if SEAL.search(line.text)]
    yield from (f"line {number} was changed" for number in changed)
    if not intact and not changed:
        yield f"lines before line {first + 1} were changed or are missing"
    for number, line in enumerate(lines[first + 1 :], first + 1):
        if line.chain is None:
            yield f"line {number + 1} was changed"
        elif lines[number - 1].chain not in (None, line.previous):
            yield f"lines before line {number + 1} are missing or were moved"


def _identity(lines: list[Line], events: list[Event], old: bool) -> str:
    """Return the name of the run: the first line's chain, which the second repeats."""
    repaired = [event["identity"] for event in events if event.get("event") == REPAIRED]
    if repaired:
        return str(repaired[0])
    known = {line.previous: line.chain for line in lines[:1]}.get(_hash(b""))
    name = known or next((line.previous for line in lines[:2] if line.previous), None)
    if old or name is None:  # lines of earlier versions have no chain
        return _hash(json.dumps(events[0], sort_keys=True).encode())[:16] if events else ""
    return name[:16]
