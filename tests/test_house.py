"""The house: files that stay small, imports that run one way, one class for a name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "benchmarks", "cluster", "estimators", "evaluation", "experiments", "pipeline", "sbiflow", "simulators",
)  # fmt: skip
LONGEST = 400  # lines
KNOWN = (
    # A simulator is unpickled by its name, which `load` looks up among those it imports.
    {"simulators.simulator", "simulators.registry", "simulators.factory", "simulators.program"},
    # An estimator gives its posterior; the import of the estimator there is for type checkers alone.
    {"estimators.estimator", "estimators.posterior"},
)


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    """Return the files of the product by the name that they are imported by."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files)
    return {".".join(parts): path for parts, path in zip(names, files, strict=True)}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return which of the known modules a file imports, also within functions and for type checkers."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known.keys()


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return all modules that a module imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other in a loop."""
    below = {name: reachable(name, graph) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in below[name] if name in below[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_no_modules_import_each_other_but_those_that_must() -> None:
    known = modules()
    graph = {name: imports(path, known) for name, path in known.items()}
    assert len(graph) > 300
    found = circles(graph)
    assert [sorted(circle) for circle in found if circle not in KNOWN] == []
    assert all(circle in found for circle in KNOWN)


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_longer_than_a_reader_takes_in(room: str) -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / room).rglob("*.py")
    }
    assert lines
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_no_two_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    assert len(found) > 300
    assert {name: where for name, where in found.items() if len(where) > 1} == {}


def bound(path: Path) -> set[str] | None:
    """Return the names that a file gives to others, None where it makes them when it is asked."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return None if "__getattr__" in found else found


def test_what_tests_and_benchmarks_import_is_there() -> None:
    """mypy reads the product only, and a test that cannot be imported is seen after half an hour."""
    known = modules()
    names = {name: bound(path) for name, path in known.items()}
    for name in [name for name in known if name.endswith(".__init__")]:
        names[name.removesuffix(".__init__")] = names[name]
    imported = [
        (path, node.module, alias.name)
        for path in [*known.values(), *(ROOT / "tests").rglob("*.py")]
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.module in names
        for alias in node.names
    ]
    assert len(imported) > 1000
    assert [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path, module, name in imported
        if (here := names[module]) is not None
        and name not in here
        and f"{module}.{name}" not in names
    ] == []
