"""A configuration from YAML and `key=value` words, checked against the schema: unknown keys fail at any depth."""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.config import former_names
from pipeline.config.schema import Config, named
from pipeline.errors import UsageError


def _yaml() -> YAML:
    """Return YAML 1.2: `1e-3` is a number, `12:00:00` a text, and a key given twice an error."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 10**6
    return yaml


def _parse(text: str, source: str) -> Any:
    try:
        values = _yaml().load(text)
        json.dumps(values, default=str)  # refuses what contains itself, and keys that are no text
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{source} is not valid YAML, line {line}: {error.problem}") from None
    except (YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not valid YAML: {error}") from None
    return values


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain values."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from None
    return anchored(parse(text, path), path.parent)


def parse(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping that the text of `path` holds."""
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of keys, got {type(values).__name__}")
    return values


def anchored(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make files named relative to the configuration absolute, so that they are found from anywhere."""
    result = dict(values)
    simulator, train = named(values.get("simulator")), values.get("train")
    if isinstance(simulator, dict):
        result["simulator"] = _with_paths(simulator, ("name",), folder)
    if isinstance(train, dict):
        result["train"] = _with_paths(train, ("augmentation",), folder)
    if isinstance(prior := values.get("prior"), dict) and prior.get("name") == "data":
        result["prior"] = _with_paths(prior, ("path", "held_out"), folder)
    return result


def _with_paths(values: dict[str, Any], keys: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Return values with those absolute that name files: `file.py:attribute`, or a data set's path."""
    changed = {}
    for key in keys:
        if not isinstance(value := values.get(key), str):
            continue
        file, colon, attribute = value.rpartition(":")
        if not (file.endswith(".py") or (not colon and key not in ("name", "augmentation"))):
            continue
        path = Path(file or value)
        if path.is_absolute():
            continue
        beside = (folder / path).resolve()
        found = beside if beside.exists() else path.resolve()
        changed[key] = f"{found}{colon}{attribute}" if colon else str(found)
    return {**values, **changed}


def override(values: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Apply `key=value` words with dotted keys; values are read as YAML."""
    result: dict[str, Any] = former_names.current(json.loads(json.dumps(values, default=str)))
    for word in former_names.current_words(words, result):
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", key):
            raise UsageError(f"{word!r} is not an override: write key=value, like train.steps=1000")
        assign(result, key, _parse(text, repr(word)))
    return anchored(result, Path.cwd())


def assign(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Set a dotted key of nested values, and return them."""
    place = values
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        below = place.get(parent)
        if isinstance(below, str) and parent in ("simulator", "estimator") and depth == 0:
            below = named(below)
        if below is not None and not isinstance(below, dict):
            above = ".".join(parents[: depth + 1])
            raise UsageError(f"{key + '=' + str(value)!r}: {above} has no keys below it")
        place[parent] = place = below or {}
    place[last] = value
    return values


def build(values: Mapping[str, Any]) -> Config:
    """Check plain values and return the configuration; a `UsageError` names every wrong key."""
    try:
        return Config.model_validate(former_names.current(values))
    except ValidationError as error:
        lines = [explained(detail) for detail in error.errors()]
        raise UsageError("configuration: " + "; ".join(lines)) from None


def explained(detail: Any, valid: Sequence[str] = ()) -> str:
    """Return what pydantic found wrong as a sentence.

    Arguments:
        detail: one of a `ValidationError`.
        valid: keys at the top, where they are not those of a configuration.
    """
    where = [str(part) for part in detail["loc"] if part not in ("int", "tuple[int, ...]")]
    key = ".".join(where)
    if detail["type"] == "extra_forbidden":
        valid = valid or _keys(where[:-1])
        close = difflib.get_close_matches(where[-1], valid, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {key!r}; {hint}valid here: {', '.join(valid)}"
    if detail["type"] == "missing":
        return f"{key!r} is missing"
    problem = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key!r} = {detail['input']!r}: {problem}" if key else problem


def _keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        kind = model.model_fields[part].annotation
        candidates = [kind, *get_args(kind)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)


def text(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML."""
    stream = io.StringIO()
    _yaml().dump(dict(values), stream)
    return stream.getvalue()
