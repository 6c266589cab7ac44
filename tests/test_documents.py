"""What the documents name exists: commands and their options, files, dotted names, configuration keys."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from pipeline.cli import app
from pipeline.config import Config

ROOT = Path(__file__).parents[1]
PACKAGES = ("sbiflow", "pipeline", "simulators", "estimators", "evaluation", "cluster")
FOLDERS = (*PACKAGES, "benchmarks", "experiments", "examples", "configs", "docs", "tests")
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
LABELS = {  # entry points of plug-ins and tags in MLflow
    f"sbiflow.{name}"
    for name in ("simulators", "estimators", "metrics", "solvers", "verdict", "reason")
}
FORMER = ROOT / "docs" / "migration.md"  # has former names, which are gone
PLACEHOLDER = re.compile(r"[<>*{}]|[A-Z]{3,}")  # `benchmarks/<name>.py`, `configs/TASK_BUDGET.yaml`
GENERATED = (  # by docs/hooks.py; the strict build of the site checks links to them
    "getting_started.md",
    "reference/configuration.md",
    "reference/command_line.md",
)
every_page = pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != FORMER],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)


@cache
def blocks(page: Path) -> str:
    """Return the code blocks of a page, fenced or indented, continued lines joined."""
    text = page.read_text()
    fenced = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)]).replace(
        "\\\n", " "
    )


def spans(page: Path) -> list[str]:
    """Return what stands between single backquotes outside of code blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: Path, pattern: str) -> list[re.Match[str]]:
    """Return the commands of a page, each to the end of its line or code, without a comment."""
    lines = [*blocks(page).splitlines(), *spans(page)]
    found = [re.match(pattern + r"(?P<words>[^#]*)", line.strip()) for line in lines]
    return [match for match in found if match]


@cache
def files() -> dict[str, set[str]]:
    """Return the names of the repository's files, each with the folders that have one."""
    found: dict[str, set[str]] = {}
    for top in (ROOT, *(ROOT / folder for folder in FOLDERS)):
        for folder, _, names in (
            os.walk(top) if top != ROOT else [(str(ROOT), [], os.listdir(ROOT))]
        ):
            for name in names:
                found.setdefault(name, set()).add(os.path.relpath(folder, ROOT))
    return found


# --- commands ----------------------------------------------------------------------------------


@every_page
def test_modules_that_are_run_exist_and_take_the_options(page: Path) -> None:
    for command in commands(page, r"python -m (?P<module>[\w.]+)"):
        module = command["module"].rstrip(".")
        assert importlib.util.find_spec(module), command[0]
        if module.startswith(("benchmarks", "experiments", "examples")):
            source = Path(_main(module)).read_text()
            for option in re.findall(r"--(?:no-)?([a-z][\w-]*)", command["words"]):
                assert f'"--{option}"' in source, f"{command[0]}: no option --{option}"


def _main(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec, f"{module} cannot be run: it has no __main__"
    assert spec.origin, f"{module} cannot be run"
    return spec.origin


@cache
def command_line() -> Any:
    """Return the parser of `sbiflow`."""
    return typer.main.get_command(app)


@every_page
def test_commands_of_sbiflow_exist_and_take_the_options(page: Path) -> None:
    for command in commands(page, r"sbiflow (?=[a-z])"):
        words = command["words"].split()
        parser = command_line()
        while words and words[0] in getattr(parser, "commands", {}):
            parser = parser.commands[words.pop(0)]
        assert not hasattr(parser, "commands"), f"{command[0]}: no such command"
        known = {name for param in parser.params for name in (*param.opts, *param.secondary_opts)}
        for option in (word for word in words if re.fullmatch(r"-[a-z]|--[a-z][a-z-]*", word)):
            assert option in known | {"--help"}, f"{command[0]}: no option {option}"


# --- files -------------------------------------------------------------------------------------


@every_page
def test_files_of_the_repository_exist(page: Path) -> None:
    pattern = rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./<>*{{}}-]*"
    for found in re.findall(pattern, page.read_text()):
        path = found.rstrip(".:,-")
        if not PLACEHOLDER.search(path):
            assert (ROOT / path).exists() or (page.parent / path).exists(), path


@every_page
def test_links_and_names_of_files_are_right(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|^\[\w+\]: (\S+)$", text, flags=re.MULTILINE):
        target = "".join(link)
        if "://" not in target and not target.startswith(GENERATED):
            assert (page.parent / target).exists(), target
    shown = "\n".join(map(blocks, PAGES))  # files of the reader's, and of a run
    for span in spans(page):
        if re.fullmatch(r"[\w./-]+\.(py|md|ya?ml|toml)", span) and not (
            span in shown or PLACEHOLDER.search(span)
        ):
            folder, _, name = span.rpartition("/")
            tops = files().get(name, set())
            known = any(top == folder or top.endswith(f"/{folder}") for top in tops)
            assert known if folder else tops, f"{span}: no file of this name"


# --- names -------------------------------------------------------------------------------------


@every_page
def test_dotted_names_exist(page: Path) -> None:
    tops = "|".join((*PACKAGES, "benchmarks", "experiments", "examples"))
    for span in spans(page):
        for found in re.finditer(rf"(?<![\w/.])({tops})((?:\.\w+)+)(:\w+)?(?!/)", span):
            name = found[1] + found[2] + (found[3] or "").replace(":", ".")
            is_file = re.search(r"\.(py|md|yaml)$", name) or name in LABELS
            if not (is_file or PLACEHOLDER.search(name) or _key(name) is not None):
                _resolve(name)


def test_the_new_names_of_the_migration_exist() -> None:
    rows = re.findall(r"^\| (.+) \| `([^`]+)` \|$", FORMER.read_text(), flags=re.MULTILINE)
    modules = [new for _, new in rows if new.startswith("pipeline.")]
    assert len(modules) > 50
    for name in (new for _, new in rows if "." in new and "(" not in new):
        assert _key(name) or _resolve(name.replace(":", "."))


def _resolve(name: str) -> Any:
    """Import as much of a dotted name as is a module, and take the rest as attributes."""
    parts = name.split(".")
    thing: Any = importlib.import_module(parts[0])
    for count, part in enumerate(parts[1:], 2):
        if inspect.ismodule(thing) and importlib.util.find_spec(thing.__name__):
            inside = hasattr(thing, "__path__")
            if inside and importlib.util.find_spec(f"{thing.__name__}.{part}"):
                thing = importlib.import_module(".".join(parts[:count]))
                continue
        assert hasattr(thing, part), f"{name}: {'.'.join(parts[: count - 1])} has no {part!r}"
        thing = getattr(thing, part)
    return thing


def _key(name: str) -> str | None:
    """Return the key of the configuration that a dotted name is, None where there is none."""
    model: type[BaseModel] | None = Config
    for part in name.split("."):
        if model is None:  # below a mapping: the keys are the user's
            return name
        field = model.model_fields.get(part)
        if field is None:
            return None
        kinds = [field.annotation, *get_args(field.annotation)]
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = models[0] if models else None
    return name


@every_page
def test_keys_of_the_configuration_exist(page: Path) -> None:
    sections = "simulator|simulate|store|estimator|train|evaluate|track"
    for span in spans(page):
        for found in re.finditer(rf"(?<![\w/.])((?:{sections})(?:\.[a-z_]+)+)(?![\w(/])", span):
            name = found[1]
            is_file = re.search(r"\.(py|md|yaml|json|npz|csv|sh|log|exit|pickle)$", name)
            assert is_file or _key(name), f"{name}: no key of the configuration"


# --- the page of experiments -------------------------------------------------------------------


def test_the_page_of_experiments_can_be_read_quickly() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    lines = page.splitlines()
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")] if line.startswith("|") else []
        assert max(map(len, cells), default=0) <= 110, line
    prose = "\n".join("" if line.startswith(("|", "#", "[")) else line for line in lines)
    for paragraph in re.split(r"\n\s*\n|\n- ", prose):
        for sentence in re.split(r"(?<=[.:;?])\s+", " ".join(paragraph.split())):
            assert len(sentence.split()) <= 32, sentence
    for log in (ROOT / "docs" / "experiments").glob("*.md"):
        assert f"(experiments/{log.name})" in page, f"{log.name} is not on the page"
        assert "Appendix to [Experiments](../experiments.md)" in log.read_text()[:400], log.name


# --- files for other programs ------------------------------------------------------------------


def test_the_hooks_before_a_commit_are_the_linters_of_make_test() -> None:
    """Only local hooks, so that nothing is downloaded, and every linter of the Makefile."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    linters = [line.strip().removesuffix(" .") for line in lint[1].splitlines()]
    assert hooks == [line.replace("$(BIN)", ".venv/bin") for line in linters]
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_documents_that_code_names_exist() -> None:
    """Messages and docstrings send a reader to `docs/NAME.md`."""
    for folder in (*PACKAGES, "benchmarks", "experiments", "examples", "configs"):
        for file in (path for end in ("py", "yaml") for path in (ROOT / folder).rglob(f"*.{end}")):
            for named in re.findall(r"docs/[\w/]+\.md", file.read_text()):
                assert (ROOT / named).exists(), f"{file}: {named}"


@every_page
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(page, r"make (?P<target>[a-z][a-z-]*)\b(?=$|\s*#|\s*$)"):
        assert command["target"] in targets, command[0]


@every_page
def test_spelling_is_british(page: Path) -> None:
    text = re.sub(
        r"```.*?```|`[^`]+`|\]\([^)]*\)|^\[\w+\]:.*$",
        "",
        page.read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    american = (
        r"\b(?:colors?|behaviors?|neighbors?|artifacts?|favors?|modeling|labeled|tumors?"
        r"|(?:normal|optim|initial|standard|summar|regular|general|parameter|real|recogn)iz\w+|analyz\w+)\b"
    )
    assert not (found := re.search(american, text, re.IGNORECASE)), found[0]
