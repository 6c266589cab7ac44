"""Former names of configuration keys: taken for one release, each with a warning that names the new one.

They are replaced before configurations are checked or compared, so that a run that was made with a former
name opens, and is the same run with the new one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.config.schema import EstimatorConfig
from pipeline.errors import UsageError

KEYS = {"evaluate": {"passes": "sampling_steps", "gpu": "device"}}  # group -> former key -> key
MESSAGE = r".* is deprecated: its name is now "  # begins the warnings


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's plain values with former names replaced.

    Raises:
        UsageError: something is given under both names.
    """
    result = dict(values)
    for group, keys in KEYS.items():
        if isinstance(given := result.get(group), Mapping):
            result[group] = _replaced(group, given, keys)
    if isinstance(estimator := result.get("estimator"), Mapping):
        result["estimator"] = _estimator(estimator)
    return result


def current_words(words: Iterable[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `key=value` words with former names replaced.

    Arguments:
        words: as the command line takes them.
        values: what they override; it holds the name of the estimator.
    """
    estimator = values.get("estimator") or {}
    name = estimator.get("name") if isinstance(estimator, Mapping) else estimator
    words = tuple(words)
    for word in words:
        key, _, value = word.partition("=")
        name = value if key in ("estimator", "estimator.name") else name
    return tuple(_word(word, str(name)) for word in words)


@contextmanager
def unheard() -> Iterator[None]:
    """Take former names without a warning: in what the user does not write, such as a run's `config.yml`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MESSAGE, DeprecationWarning)
        yield


def _replaced(group: str, given: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    result = {}
    for key, value in given.items():
        new = keys.get(key, key)
        if new != key:
            if new in given:
                raise UsageError(f"{group}.{key} is the former name of {group}.{new}: give one")
            _warn(f"{group}.{key}", f"{group}.{new}")
        result[new] = value
    return result


def _estimator(values: Mapping[str, Any]) -> dict[str, Any]:
    result, name = dict(values), values.get("name", EstimatorConfig.model_fields["name"].default)
    if "arguments" in result:
        result["arguments"] = _arguments(name, result["arguments"])
    if isinstance(only := result.get("only"), Mapping):
        result["only"] = {key: _arguments(key, given) for key, given in only.items()}
    return result


def _arguments(name: Any, given: Any) -> Any:
    """Return the arguments of an estimator; those of one that is not known as they are."""
    from estimators.registry import FORMER_NAMES, current_names

    if not isinstance(given, Mapping) or not FORMER_NAMES.keys() & given.keys():
        return given  # almost always: whatever the estimator imports is not imported here
    try:
        return current_names(name, given)
    except LookupError:
        return given
    except TypeError as error:
        raise UsageError(str(error)) from error


def _word(word: str, estimator: str) -> str:
    key, equals, value = word.partition("=")
    group, dot, last = key.rpartition(".")
    new = KEYS.get(group, {}).get(last, last)
    if new != last:
        _warn(key, f"{group}.{new}")
    elif group == "estimator.arguments":
        (new,) = _arguments(estimator, {last: value})
    elif group.startswith("estimator.only."):
        (new,) = _arguments(group.removeprefix("estimator.only."), {last: value})
    return f"{group}{dot}{new}{equals}{value}"


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old!r} is deprecated: its name is now {new!r}", DeprecationWarning, 3)
