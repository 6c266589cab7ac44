"""The source code of the simulator that made a store's rows, kept in `STORE/source.json`.

Rows of several sources are mixed only where the user allowed it; the file then says from how many rows on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedError, UsageError
from pipeline.files import read_document, write_document
from pipeline.progress import log
from pipeline.run import STREAMS, RunDirectory
from pipeline.store import Store
from simulators.source import Source

FILE = "source.json"
MOST_LINES = 60  # of a diff


@dataclass(frozen=True)
class Made:
    """The source of the rows made after there were `rows` of them in the store."""

    rows: int
    source: Source

    def spec(self) -> dict[str, Any]:
        return {"rows": self.rows, "digest": self.source.digest, "files": dict(self.source.files)}


def made_by(store: Path) -> list[Made]:
    """Return the sources of a store in order; none for imported simulations and for stores of before version 0.2.

    Raises:
        DamagedError: the file is damaged.
    """
    try:
        content = read_document(store / FILE)
    except FileNotFoundError:
        return []
    except DamagedError as error:
        advice = "delete it: the source is recorded anew by the next simulations"
        raise DamagedError(f"{error}; {advice}") from error
    return [Made(entry["rows"], Source(entry["files"])) for entry in content["sources"]]


def values(store: Path) -> list[dict[str, Any]]:
    """Return rows and digest of each source, for reports."""
    return [{"rows": made.rows, "digest": made.source.digest} for made in made_by(store)]


def told(values: list[dict[str, Any]]) -> str:
    """Return `values` in words; an empty text where nothing is known."""
    if not values:
        return ""
    first, *others = [(entry["rows"], entry["digest"][:12]) for entry in values]
    text = f"not known of {first[0]} rows, then {first[1]}" if first[0] else first[1]
    text += "".join(f", after {rows} rows {digest}" for rows, digest in others)
    return f"{text}: MIXED on purpose" if others else text


def check(store: Path, simulator: Any, accept: bool) -> None:
    """Compare a simulator's source with that of the rows in the store, before more are made.

    Arguments:
        store: the folder of the store, which need not exist yet.
        simulator: makes the missing rows.
        accept: whether rows of several sources may be mixed.

    Raises:
        UsageError: the sources differ; the message shows the difference.
    """
    made = made_by(store)
    if not made or accept or made[-1].source.same(simulator.source()):
        return
    if rows := _rows(store):
        raise UsageError(
            f"{store} holds {rows} rows by another source of simulator {simulator.name!r}:\n"
            + "\n".join(_diff(made[-1].source, simulator.source()))
            + "\nundo the change; or give the simulator another version and the run another -o; or mix rows of "
            "both on purpose by simulate.accept_source=true, which every report then says"
        )


def record(store: Path, simulator: Any) -> None:
    """Record the source of a store's next rows; call `check` first."""
    made, source = made_by(store), simulator.source()
    if made and made[-1].source.same(source):
        return
    rows = _rows(store)
    if rows and not made:
        log(
            f"simulate: {store / FILE} is new: by which source the {rows} rows there were made is not known"
        )
    elif rows:
        log(f"simulate: {store} now mixes rows of {len(made) + 1} sources of {simulator.name!r}")
    entries = [*(made if rows else ()), Made(rows, source)]
    write_document(store / FILE, {"sources": [entry.spec() for entry in entries]})


def accept(run: RunDirectory, simulator: Any) -> None:
    """Record that a simulator of another source may continue all stores of a run."""
    for stream in STREAMS:
        if (run.store(stream) / "store.json").exists():
            record(run.store(stream), simulator)


def _rows(store: Path) -> int:
    there = (store / "store.json").exists()
    return Store.open(store).counts()["done"] if there else 0


def _diff(old: Source, new: Source) -> Iterator[str]:
    lines = [
        line.rstrip("\n")
        for name in sorted({**old.files, **new.files})
        if old.code.get(name) != new.code.get(name)
        for line in difflib.unified_diff(
            old.files.get(name, "").splitlines(),
            new.files.get(name, "").splitlines(),
            f"{name} of the store",
            f"{name} now",
            lineterm="",
        )
    ]
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"... {len(lines) - MOST_LINES} more lines"
