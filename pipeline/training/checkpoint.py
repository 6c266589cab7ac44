"""The training state on disk: the last two, each written whole, tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.progress import say

FORMAT = 1
LAST, PREVIOUS, NEW = "state.pt", "state.previous.pt", ".state.pt.new"
MARK = b"sbiflow-sha256:"  # ahead of the digest, at the end of the file


def write(folder: Path, state: dict[str, Any]) -> None:
    """Save a state and keep the one before; killed at any moment, one of the two is whole.

    The SHA-256 of the content stands behind it, where readers of the format overlook it.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    new, last = folder / NEW, folder / LAST
    try:
        with new.open("wb") as file:
            file.write(content + MARK + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            os.replace(last, folder / PREVIOUS)
        os.replace(new, last)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise PipelineError(f"cannot save the training state {last}: {error.strerror}") from error


def read(folder: Path) -> dict[str, Any] | None:
    """Return the newest sound state, None if there is none; a damaged one is named and passed over."""
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return _load(path)
        except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
            say(f"train: {path} is damaged ({error}); an earlier state is used")
    return None


def remove(folder: Path) -> None:
    """Delete the states of a training that is complete."""
    for name in (LAST, PREVIOUS, NEW):
        (folder / name).unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    end = len(content) - len(MARK) - hashlib.sha256().digest_size
    if end < 0 or content[end:] != MARK + hashlib.sha256(content[:end]).digest():
        raise ValueError("its content does not match its checksum")
    state: dict[str, Any] = torch.load(io.BytesIO(content[:end]), "cpu", weights_only=True)
    if state.pop("format") > FORMAT:
        raise PipelineError(f"{path} was written by a newer sbiflow: update, or delete it")
    return state
