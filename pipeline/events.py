"""The events of a run: its journal, and a note of its last line, so that lines missing at the end are noticed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.journal import Content, Journal
from pipeline.cache import FileCache
from pipeline.errors import DamagedError, PipelineError
from pipeline.files import read_document, write_document
from pipeline.progress import log
from pipeline.run import RunDirectory

Recorder = Callable[[dict[str, Any]], None]
_contents = FileCache[Content]()


def recorder(run: RunDirectory, stage: str) -> Recorder:
    """Return the function by which a stage writes events into the journal."""
    journal = Journal(run.journal)

    def record(event: dict[str, Any]) -> None:
        if not run.config.exists():
            raise PipelineError(f"{run.path} is gone: it was deleted or moved under this command")
        journal.append({"stage": stage, **event})

    return record


def read(run: RunDirectory) -> Content:
    """Return what the journal holds, and report damage once; it is read again only where it has changed."""
    content = _content(run)
    if content.damage:
        _warn(run.journal, "; ".join(content.damage))
    return content


def mend(run: RunDirectory) -> None:
    """Continue with an intact journal and note its end; a damaged one is kept beside it."""
    if _content(run).damage and (mended := _journal(run).mend()):
        aside, damage = mended
        log(
            f"journal: {run.journal} was damaged ({'; '.join(damage)}): it is kept as {aside.name}, "
            "its sound lines go on"
        )
    if (end := _content(run).end) and end != _journal(run).end:
        write_document(_note(run), {"end": end})


def _content(run: RunDirectory) -> Content:
    whole = Journal(run.journal).content
    return _contents.get(run.journal, (run.journal,), whole).expecting(_journal(run).end)


def _journal(run: RunDirectory) -> Journal:
    try:
        end = str(read_document(_note(run))["end"])
    except (FileNotFoundError, DamagedError, KeyError):
        end = ""
    return Journal(run.journal, end)


def _note(run: RunDirectory) -> Path:
    return run.path / "journal.json"


@cache
def _warn(path: Path, damage: str) -> None:
    log(f"journal: {path} is damaged: {damage}; what is sound is used, the next stage mends it")
