"""The examples in the documents: Python runs, YAML is a valid configuration, the notebook executes.

A Python block that begins with the name of a file is that file; the other blocks of a page share one
session. `<!-- compiled only: REASON -->` above a block keeps one from being run that is costly or needs a
file of the reader's; of YAML then only the keys are checked.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from pipeline.config import Config, override, resolve
from pipeline.run import RunDirectory
from pipeline.study.case import cases
from pipeline.study.schema import build

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "getting_started.ipynb"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = set(Config.model_fields)
WIDTH = 100  # of a line of prose, and of a table's cell


def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """Return the blocks of a language, each with whether it is only compiled."""
    pattern = rf"(<!-- compiled only: .+? -->\n)?```{language}\n(.*?)```"
    return [(code, bool(mark)) for mark, code in re.findall(pattern, page.read_text(), re.DOTALL)]


def having(language: str) -> Any:
    """Return a parametrisation over the pages that have blocks of a language."""
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory where a Python file can be imported, with this Python first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks of a page that are files."""
    for code, _ in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            (folder / named[1]).write_text(code)


# --- Python ------------------------------------------------------------------------------------


@pytest.mark.timeout(900)  # Numba compiles the tumour spheroid
@having("python")
def test_python_blocks_run(page: Path, workplace: Path) -> None:
    write_files(page, workplace)
    session: dict[str, object] = {}
    for code, compiled_only in blocks(page, "python"):
        program = compile(code, page.name, "exec")
        if compiled_only:
            imports_resolve(code)
        else:
            exec(program, session)


def imports_resolve(code: str) -> None:
    """Check that every name that a block imports from us exists."""
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and importlib.util.find_spec(node.module)
        ):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def test_a_wrong_import_is_found() -> None:
    with pytest.raises(AssertionError, match="has no nothing"):
        imports_resolve("from pipeline.abc import nothing")


# --- YAML --------------------------------------------------------------------------------------


@having("yaml")
def test_yaml_blocks_are_configurations(page: Path, workplace: Path) -> None:
    """A block that lacks keys is completed by those of a small run."""
    write_files(page, workplace)
    if page.stem == "README":
        (workplace / "my_model.py").write_text(blocks(page, "python")[0][0])
    for number, (text, keys_only) in enumerate(blocks(page, "yaml")):
        values = YAML(typ="safe", pure=True).load(text)
        if "base" in values:
            check_study(values, workplace)
            continue
        assert set(values) <= SECTIONS, f"{page.name}: {set(values) - SECTIONS} are no keys"
        if keys_only:
            continue
        whole = {"name": "example", "simulator": "two_moons", "budget": 100} | values
        if "tumor" in text:  # a summary network names the outputs that it reads
            whole["simulator"] = "tumor_spheroid"
        resolve(RunDirectory(workplace / str(number)), whole)


def check_study(values: dict[str, Any], folder: Path) -> None:
    """A study has cases; a file that its base names stands for a small run."""
    if isinstance(values["base"], str):
        values["base"] = {"name": "example", "simulator": "two_moons", "budget": 100}
    assert cases(build(values, "a study"), folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_overrides_in_commands_are_valid(page: Path) -> None:
    """Words `key=value` of commands that take them change a key that exists, to a value that it takes."""
    small = {"name": "example", "simulator": "two_moons", "budget": 100}
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^(?:    )?sbiflow (?!sample)(.*)$", text, re.MULTILINE):
        words = [word for word in line.partition("  #")[0].split() if "=" in word]
        keys = [word for word in words if re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
        if keys:
            Config.model_validate(override(small, keys))


# --- the notebook ------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_the_notebook_executes(workplace: Path) -> None:
    """All cells run, commands among them, and give what the stored outputs show."""
    program = workplace / "bin" / "sbiflow"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline "$@"\n')
    program.chmod(0o755)
    os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [cell.get("outputs", []) for cell in notebook.cells]
    place = {"metadata": {"path": str(workplace)}}
    NotebookClient(notebook, timeout=800, kernel_name="python3", resources=place).execute()
    for cell, before in zip(notebook.cells, stored, strict=True):
        made = {output.output_type for output in cell.get("outputs", [])}
        assert made == {output.output_type for output in before}, cell.source
    assert (workplace / "runs" / "oscillation" / "report.html").exists()


# --- form --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_are_wrapped_at_one_width(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for line in text.splitlines():
        if line.startswith("|"):
            assert max(len(cell.strip()) for cell in line.split("|")) <= WIDTH, line
        elif not line.startswith(("    ", "![", "[", "#")):
            assert len(line) <= WIDTH, line
