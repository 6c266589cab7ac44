"""A posterior's folder without its networks: the description, sealed, and the bytes of the weights.

No torch here: whoever only tells about a posterior need not wait for it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FORMAT = 3  # 2: the training range of x. 3: the description has a checksum
OLDEST = UNSEALED = 2  # the oldest that is still read has no checksum
DESCRIPTION, WEIGHTS = "posterior.json", "weights.pt"


class ArtefactError(ValueError):
    """A folder that holds no readable posterior."""


class AbsentError(ArtefactError):
    """A folder that holds nothing of a posterior."""


class NewerError(ArtefactError):
    """A posterior that a newer version wrote."""


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return description and weights of the posterior in the folder `path`, both checked by their sums.

    Raises:
        ArtefactError: nothing there, something damaged, or another format.
    """
    folder = path if path.exists() else aside(path)
    if not folder.exists():
        raise AbsentError(f"{path}: no posterior here")
    try:
        text, weights = (folder / DESCRIPTION).read_bytes(), (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        if inside := sorted(folder.glob("trainings/*/posterior")) or sorted(
            folder.glob("posterior")
        ):
            where = f"it holds {inside[-1]}; sbiflow.Run(path).posterior() gives that of a run"
            raise ArtefactError(f"{path}: no posterior here, but {where}") from error
        raise ArtefactError(f"{path}: no posterior here ({error.filename} is missing)") from error
    try:
        description = _checked(text)
    except ValueError as error:
        raise ArtefactError(f"{path / DESCRIPTION}: damaged ({error})") from error
    version = description["format"]
    if version > FORMAT:
        raise NewerError(
            f"{path}: written in format {version} by a newer sbiflow; this one reads up to {FORMAT}"
        )
    if version < OLDEST:
        raise ArtefactError(f"{path}: written in the older format {version}; train it anew")
    try:
        digest = description["weights"]["sha256"]
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{path / DESCRIPTION}: damaged ({error!r})") from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ArtefactError(f"{path / WEIGHTS}: damaged (not the bytes posterior.json describes)")
    return description, weights


def _checked(text: bytes) -> dict[str, Any]:
    """Return the description that a text holds; a `ValueError` says what is wrong with it."""
    description = json.loads(text)
    if not isinstance(description, dict) or not isinstance(description.get("format"), int):
        raise ValueError("no format version")
    if "checksum" in description:
        content = {key: value for key, value in description.items() if key != "checksum"}
        if sealed(content) != text:
            raise ValueError("not what its checksum says")
    elif description["format"] > UNSEALED:
        raise ValueError("no checksum")
    return description


def sealed(description: dict[str, Any]) -> bytes:
    """Return the text of a description with the SHA-256 of all of it as its last key."""
    text = json.dumps(description, sort_keys=True, allow_nan=False)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**description, "checksum": checksum}, indent=2).encode()


def aside(path: Path) -> Path:
    """Return where the previous version of an artefact waits while a new one is written."""
    return path.with_name(f".{path.name}.previous")
