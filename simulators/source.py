"""The source that a model is defined by: its file, and the files beside it that this one imports.

Two sources are the same if their code is: comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import marshal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]  # ours
INSTALLED = ("site-packages", "dist-packages")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """Texts by name of file; of what is no text, its SHA-256 stands there."""

    files: Mapping[str, str]

    @cached_property
    def code(self) -> dict[str, str]:
        """What counts of each file."""
        return {name: code_of(name, text) for name, text in sorted(self.files.items())}

    @property
    def digest(self) -> str:
        """The SHA-256 of the code."""
        return hashlib.sha256(json.dumps(self.code).encode()).hexdigest()

    def same(self, other: Source) -> bool:
        """Whether the code is the same, by this Python's reading of both."""
        return self.code == other.code


def source_of(model: Callable[..., Any], version: str, files: Sequence[str] = ()) -> Source:
    """Return the source of a model, with the SHA-256 of data files beside it.

    That of a model of this package is its version alone: it changes with the outputs, the files more often.
    """
    target = inspect.unwrap(getattr(model, "func", model))
    if (getattr(target, "__module__", None) or "").partition(".")[0] == PACKAGE:
        return Source({"version": version})
    try:
        path = Path(inspect.getfile(target)).resolve()
        path.read_bytes()
    except (TypeError, OSError):
        code = marshal.dumps(getattr(target, "__code__", None))
        return Source({"code": hashlib.sha256(code).hexdigest()})
    home, root = _home(path)
    texts = {
        file.relative_to(root).as_posix(): text_of(file) for file in _imported(path, home, root)
    }
    return Source(texts | {name: _sha256(path.parent / name) for name in files})


def folder_of(model: Callable[..., Any]) -> Path | None:
    """Return the folder of the file that defines a model; None where there is no file."""
    target = inspect.unwrap(getattr(model, "func", model))
    try:
        path = Path(inspect.getfile(target)).resolve()
    except (TypeError, OSError):
        return None
    return path.parent if path.is_file() else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_of(path: Path) -> str:
    """Return a file's text, or the SHA-256 of one that is none."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(content).hexdigest()


def code_of(name: str, text: str) -> str:
    """Return what counts of a file: of Python its syntax without docstrings, of others all."""
    if not name.endswith(".py"):
        return text
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _home(path: Path) -> tuple[Path, Path]:
    """Return in which place files belong to a model, and from where they are imported.

    The place is the package that its file is in, or the file's folder; of an installed file it is the file alone.
    """
    folder = path.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    if folder != path.parent:
        return folder / path.relative_to(folder).parts[0], folder
    return (path if folder.name in INSTALLED else folder), folder


def _imported(path: Path, home: Path, root: Path) -> list[Path]:
    """Return a file and all at `home` that it imports, directly or not, sorted."""
    found, waiting = {path}, [path]
    while waiting:
        new = {file for file in _imports(waiting.pop(), root) if file.is_relative_to(home)} - found
        found |= new
        waiting += new
    return sorted(found)


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `root` that the import statements of a file name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            places = [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else root
            module = f"{node.module}." if node.module else ""
            places = [(base, f"{module}{alias.name}") for alias in node.names]
        else:
            continue
        for base, name in places:
            if base != root or name.partition(".")[0] != PACKAGE:
                yield from _files(base, name.split("."))


def _files(base: Path, parts: list[str]) -> Iterator[Path]:
    """Yield the files that an import of `a.b.c` runs: those of a, a.b and a.b.c, as far as they are here."""
    for part in parts:
        module, package = base / f"{part}.py", base / part / "__init__.py"
        if module.is_file():
            yield module
        elif package.is_file():
            yield package
        base = base / part
