"""Pages that are generated when the site is built: the notebook and two references.

`mkdocs.yml` names this file. The configuration comes from the schema, the commands from the
command line itself, and the notebook from its stored cells and outputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.cli import app
from pipeline.config import Config

NOTEBOOK = "getting_started.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    notebook = Path(config.docs_dir) / NOTEBOOK
    pages = {
        "getting_started.md": notebook_page(json.loads(notebook.read_text())),
        "reference/configuration.md": configuration_page(),
        "reference/command_line.md": command_line_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take the notes for the tests out of a page."""
    return re.sub(r"<!-- .*? -->\n", "", markdown)


# --- the notebook ------------------------------------------------------------------------------


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown: text, code, printed output and pictures."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.startswith(("%%bash", "!")):
            lines = source.removeprefix("%%bash\n").splitlines()
            parts.append(fenced("bash", "\n".join(line.removeprefix("!") for line in lines)))
        elif source.startswith("%%writefile "):
            first, _, text = source.partition("\n")
            name = first.split()[1]
            parts.append(
                f"`{name}`:\n\n" + fenced(Path(name).suffix[1:].replace("py", "python"), text)
            )
        else:
            parts.append(fenced("python", source))
        if not source.startswith("%%writefile "):
            parts += map(output_text, cell.get("outputs", []))
    return "\n\n".join(part for part in parts if part) + "\n"


def output_text(output: dict[str, Any]) -> str:
    """Return one output of a cell as Markdown: a picture inside the page, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![Output of the cell above](data:image/png;base64,{data['image/png'].strip()})"
    return fenced("text", "".join(output.get("text", data.get("text/plain", []))))


def fenced(language: str, text: str) -> str:
    """Return a code block, nothing for an empty text."""
    return f"```{language}\n{text.rstrip()}\n```" if text.strip() else ""


# --- the configuration -------------------------------------------------------------------------


def configuration_page() -> str:
    """Return the reference of all keys: type, default and meaning, a table for each section."""
    parts = [
        "# Configuration",
        "Every key, generated from the schema. [Configurations](../configuration.md) explains how"
        " they are used. A key is written with dots on the command line: `train.steps=1000`.",
    ]
    for prefix, model in sections(Config, ""):
        title = f"`{prefix}`" if prefix else "Top level"
        parts += [f"## {title}", (model.__doc__ or "").strip(), table(model, prefix)]
    return "\n\n".join(parts) + "\n"


def sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a model and all models below it, each with the dotted key where it stands."""
    yield prefix, model
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from sections(kind, f"{prefix}.{name}".lstrip("."))


def table(model: type[BaseModel], prefix: str) -> str:
    """Return the keys of one section as a Markdown table."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}".lstrip(".")
        default = field.get_default(call_default_factory=True)
        bounds = " ".join(filter(None, map(bound, field.metadata)))
        kind = f"{kind_text(field.annotation)} {bounds}".strip()
        meaning = field.description or ""
        lines.append(f"| `{key}` | {kind} | {default_text(default)} | {meaning} |")
    return "\n".join(lines)


def kind_text(kind: Any) -> str:
    """Return a type in words that a user of YAML knows."""
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if (isinstance(kind, type) and issubclass(kind, BaseModel)) or get_origin(kind) is dict:
        return "mapping"
    if get_origin(kind) is tuple:
        return f"list of {kind_text(get_args(kind)[0])}"
    if parts := get_args(kind):
        return " or ".join(dict.fromkeys(map(kind_text, parts)))
    words = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def bound(constraint: Any) -> str:
    """Return a bound of a value, nothing for another constraint."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [(sign, getattr(constraint, name, None)) for name, sign in signs.items()]
    return " ".join(f"{sign} {value}" for sign, value in found if value is not None)


def default_text(default: Any) -> str:
    """Return a default as YAML has it, nothing for a section or a key that must be given."""
    if default is PydanticUndefined:
        return "(required)"
    if isinstance(default, BaseModel) or default in ({}, (), ""):
        return ""
    return f"`{json.dumps(default)}`".replace('"', "")


# --- the command line --------------------------------------------------------------------------


def command_line_page() -> str:
    """Return the reference of all commands, their arguments and options."""
    parts = [
        "# Command line",
        "Every command, generated from the program. `sbiflow COMMAND --help` shows the same text."
        " Exit codes: 0 done; 1 error; 2 wrong usage or configuration; 3 finished, but more"
        " simulations failed than `max_failed`; 4 stopped and resumable.",
    ]
    for name, command in commands(typer.main.get_command(app), "sbiflow"):
        parts += [f"## {name}", command.help or "", fenced("text", usage(name, command))]
        parts.append(options(command))
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")
    if not getattr(command, "commands", {}):
        yield name, command


def usage(name: str, command: Any) -> str:
    """Return the line that calls a command, with what it needs."""
    words = [
        argument_name(param) for param in command.params if param.param_type_name == "argument"
    ]
    needed = [
        f"{param.opts[0]} {param.name.upper()}"
        for param in command.params
        if param.param_type_name == "option" and param.required
    ]
    return " ".join([name, *words[:1], *needed, *words[1:], "[OPTIONS]"])


def argument_name(param: Any) -> str:
    """Return how an argument is written in the usage."""
    name = param.metavar or param.name.upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def options(command: Any) -> str:
    """Return the table of a command's arguments and options."""
    lines = ["| argument or option | default | meaning |", "|---|---|---|"]
    for param in command.params:
        if getattr(param, "hidden", False):
            continue
        is_option = param.param_type_name == "option"
        names = ", ".join(
            f"`{name}`" for name in (param.opts if is_option else [argument_name(param)])
        )
        default = "" if param.default in (None, False) else f"`{param.default}`"
        default = "(required)" if param.required else default
        lines.append(f"| {names} | {default} | {param.help or 'Passed to the batch system.'} |")
    return "\n".join(lines)
