"""The saved states of a training: the last two, each written completely, of tensors and plain values only."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import DamagedError, PipelineError
from pipeline.files import read_bytes, write_bytes, writing
from pipeline.progress import log

FORMAT = 1
LAST, PREVIOUS, NEW = "state.pt", "state.previous.pt", ".state.pt.new"

UNREADABLE = ValueError, RuntimeError, EOFError, OSError, pickle.UnpicklingError


def write(folder: Path, state: dict[str, Any]) -> None:
    """Save a state and keep the one before; after a kill at any moment, one of the two is intact."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "training": folder.name, **state}, buffer)
    new, last = folder / NEW, folder / LAST
    write_bytes(new, buffer.getvalue())
    with writing(last):
        if last.exists():
            os.replace(last, folder / PREVIOUS)
        os.replace(new, last)


def there(folder: Path) -> bool:
    """Return whether there is a state, intact or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def read(folder: Path) -> dict[str, Any] | None:
    """Return the newest intact state, None if there is none; a damaged one is reported."""
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return _load(path)
        except (*UNREADABLE, DamagedError) as error:
            log(f"train: {path} is not used: {error}")
    return None


def remove(folder: Path) -> None:
    """Delete the states of a training that is complete."""
    for name in (LAST, PREVIOUS, NEW):
        (folder / name).unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(read_bytes(path)), "cpu", weights_only=True)
    if state.pop("format") > FORMAT:
        raise PipelineError(f"{path} was written by a newer sbiflow: update, or delete it")
    key = state.pop("training", path.parent.name)
    if key != path.parent.name:
        raise DamagedError(f"it is a state of training {key}")
    return state
