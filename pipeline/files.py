"""Files that survive a kill: written whole, sealed with a checksum, errors that say what to do.

Every file that decides or states a result is sealed: a changed byte is noticed when it is read. There are three
forms, by what must still be able to read the file without us:

    JSON     a last key `checksum`: `write_document`, `read_document`
    YAML     a first and a last comment: `write_text`, `read_text`
    binary   bytes behind the end:   `write_bytes`, `read_bytes`; for .npz `write_arrays`, `read_arrays`

Files of versions before 0.2 have no seal. Where they are still read, the reader is told so by `unsealed=True`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import FileCache
from pipeline.errors import DamagedError, PipelineError

_hashes = FileCache[str]()

BYTES_MARK = b"sbiflow-sha256:"  # ahead of the digest, at the end of a binary file
TEXT_HEAD = "# Written by sbiflow and sealed by its last line: changes by hand are not read.\n"
TEXT_MARK = "# sha256: "  # begins the last line of a text file

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and repeat the command",
    errno.EDQUOT: "the quota is used up: free some space and repeat the command",
    errno.EROFS: "the folder is read-only: make it writable or use another one",
    errno.EACCES: "permission is missing: make the folder writable or use another one",
    errno.EPERM: "permission is missing: make the folder writable or use another one",
    errno.ENOENT: "it is gone: another process took the store over or deleted it",
    errno.ENOLCK: "this file system has no file locks: put the store on one that has",
    errno.EOPNOTSUPP: "this file system has no file locks: put the store on one that has",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while `path` is written into a `PipelineError` that says what to do."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "nothing that was finished is lost")
        reason = error.strerror or str(error)
        raise PipelineError(f"cannot write {error.filename or path}: {reason}; {advice}") from error


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


def synchronise(paths: Iterable[Path]) -> None:
    """Flush files and folders to the device; side by side, so that they share journal commits."""

    def flush(path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(flush, paths))


def canonical(value: Any) -> Any:
    """Return what JSON keeps of `value`: text keys, lists, and 1 for 1.0.

    Raises `TypeError` for something JSON cannot hold and `ValueError` for NaN, which equals nothing.
    """
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return canonical(value.tolist())
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("NaN is not allowed here")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) is not JSON")


def canonical_text(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return _compact(canonical(value))


def _compact(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def seal(content: dict[str, Any]) -> str:
    """Return the text of a document that carries the SHA-256 of its content."""
    plain = canonical(content)
    checksum = hashlib.sha256(_compact(plain).encode()).hexdigest()
    return json.dumps({**plain, "checksum": checksum}, indent=1, ensure_ascii=False)


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed document whole."""
    with writing(path):
        write_whole(path, seal(content))


def read_document(path: Path, unsealed: bool = False) -> Any:
    """Return a sealed document's content, a mapping.

    Arguments:
        path: of the document.
        unsealed: also take one that no version with seals has written: any JSON, but a mapping with neither
            `checksum` nor `format`.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: a single byte differs.
    """
    try:
        text = path.read_bytes().decode()
        content: Any = json.loads(text)
        if unsealed and not (isinstance(content, dict) and {"checksum", "format"} & content.keys()):
            return content
        content.pop("checksum")
        sound = seal(content) == text
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedError(f"{path} is damaged: its content does not match its checksum")
    return content


def write_text(path: Path, text: str) -> None:
    """Write text whose format has comments after `#`, such as YAML, with its SHA-256 in a last comment."""
    text = TEXT_HEAD + text
    checksum = hashlib.sha256(text.encode()).hexdigest()
    with writing(path):
        write_whole(path, f"{text}{TEXT_MARK}{checksum}\n")


def read_text(path: Path) -> str:
    """Return the text of a sealed file without its seal, or that of a file without one.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it was changed after it was written.
    """
    try:
        whole = path.read_bytes().decode()
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    text, mark, checksum = whole.rpartition(TEXT_MARK)
    if not mark and not whole.startswith(TEXT_HEAD):
        return whole
    if checksum != hashlib.sha256(text.encode()).hexdigest() + "\n":
        raise DamagedError(f"{path} was changed: it does not match its checksum")
    return text.removeprefix(TEXT_HEAD)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, "" where there is none; an unchanged file is read once."""

    def read() -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return ""

    return _hashes.get(path, (path,), read)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole, with their SHA-256 behind the end, where readers of .npz and .pt files overlook it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with part.open("wb") as file:
                file.write(content)
                file.write(BYTES_MARK + hashlib.sha256(content).digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def read_bytes(path: Path, unsealed: bool = False) -> bytes:
    """Return the bytes of a sealed file without its seal.

    Arguments:
        path: of the file.
        unsealed: return a file without a seal as it is; the caller checks it as well as it can.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: a single byte differs.
    """
    content = path.read_bytes()
    end = len(content) - len(BYTES_MARK) - hashlib.sha256().digest_size
    body, mark = content[: max(0, end)], content[max(0, end) :]
    if mark == BYTES_MARK + hashlib.sha256(body).digest():
        return body
    if unsealed and BYTES_MARK not in mark:
        return content
    raise DamagedError(f"{path} is damaged: its content does not match its checksum")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a sealed .npz that a reader sees whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a sealed .npz; one without a seal must at least match the checksums of its format.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is damaged.
    """
    content = io.BytesIO(read_bytes(path, unsealed=True))
    try:
        with zipfile.ZipFile(content) as archive:
            if bad := archive.testzip():
                raise ValueError(f"{bad} does not match its checksum")
        content.seek(0)
        with np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
