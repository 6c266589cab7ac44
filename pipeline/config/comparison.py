"""A new configuration beside that of the run: what identifies the simulations of a run can never change there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import former_names
from pipeline.config.reading import build, override, read
from pipeline.config.record import recorded
from pipeline.config.schema import Config
from pipeline.errors import UsageError
from pipeline.run import RunDirectory

FIXED = (
    "name",
    "seed",
    "simulator",
    "prior",
    "design",
    "simulate.block",
)  # identify the simulations
FREE = ("budget", "test", "max_failed", "simulate", "store", "evaluate", "track", "cluster")


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    if not isinstance(values, Mapping) or (prefix and not values):
        return {prefix: values}
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ, each with its old and new value."""
    before, after = flat(old.plain()), flat(new.plain())
    keys = sorted(before.keys() | after.keys())
    return {
        key: (before.get(key), after.get(key))
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    }


def _under(key: str, group: Iterable[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in group)


def _reconcile(old: Config, new: Config, words: tuple[str, ...], run: RunDirectory) -> None:
    """Refuse a configuration that is another run's."""
    changed = differences(old, new)
    asked = [word.partition("=")[0] for word in words]
    fixed = [key for key in changed if _under(key, FIXED)]
    silent = [
        key
        for key in changed
        if not _under(key, FIXED) and not _under(key, FREE) and not _under(key, asked)
    ]
    if not fixed and not silent:
        return
    shown = "\n".join(f"  {key}: {changed[key][0]!r} -> {changed[key][1]!r}" for key in changed)
    advice = (
        f"{', '.join(fixed)} identify the simulations of this run: use another -o"
        if fixed
        else f"say it on purpose, as in `{silent[0]}={changed[silent[0]][1]}`, or use another -o"
    )
    raise UsageError(f"{run.path} was made with another configuration:\n{shown}\n{advice}")


def resolve(
    run: RunDirectory, source: Path | Mapping[str, Any] | None = None, words: Iterable[str] = ()
) -> Config:
    """Return the configuration of a run: its own, a file's or that of plain values, and never another run's.

    `words` override it.

    Raises:
        UsageError: unknown key, wrong value, or a configuration that differs from the run's.
    """
    words = tuple(words)
    if isinstance(source, Path) and source.absolute() == run.config.absolute():
        source = None
    saved = recorded(run, needed=source is None)
    if source is None and saved is None:
        raise UsageError(f"{run.path} is not a run yet: give a configuration")
    values = (
        read(source) if isinstance(source, Path) else source or (saved.plain() if saved else {})
    )
    config = build(override(values, words))
    if saved is not None:
        _reconcile(saved, config, former_names.current_words(words, values), run)
    return config
