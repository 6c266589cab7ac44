"""The site of the documentation: it builds without a warning and loads nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipeline.cli import app
from pipeline.config import Config, flat

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the build is strict, so that a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr + build.stdout
    assert "WARNING" not in build.stderr, build.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert built.exists(), built
    assert (site / "getting_started.html").exists()


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    """Neither pages nor styles nor scripts of a page name another host; links to click may."""
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//[^>]*>"
        r"|<link(?![^>]+rel=[\"']?(?:canonical|alternate))[^>]+href=[\"']?(?:https?:)?//[^>]*>"
        r"|url\([\"']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*"
    )
    for file in (file for end in ("html", "css") for file in site.rglob(f"*.{end}")):
        assert not (found := loads.search(file.read_text())), f"{file}: {found[0]}"


def test_the_reference_has_every_key_of_the_configuration(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text()
    least = Config.model_validate({"name": "a", "simulator": "two_moons", "budget": 1})
    for key in flat(least.model_dump()):
        assert f"<code>{key}</code>" in page, key


def test_every_key_has_a_meaning() -> None:
    models = [Config]
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no meaning"
            if hasattr(field.annotation, "model_fields"):
                models.append(field.annotation)


def test_the_reference_has_every_command(site: Path) -> None:
    page = (site / "reference" / "command_line.html").read_text()
    command = typer.main.get_command(app)
    for name, inner in command.commands.items():  # type: ignore[attr-defined]
        for word in getattr(inner, "commands", None) or [""]:
            assert f">sbiflow {name} {word}".rstrip() in page, (name, word)
    for option in ("--retry", "--leases", "--reweight", "--dry-run"):
        assert f"<code>{option}</code>" in page
