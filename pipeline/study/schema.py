"""What a study's file can hold, and how it is read and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline import config as configuration
from pipeline.config.reading import anchored, assign, explained
from pipeline.errors import DamagedError, UsageError
from pipeline.files import read_text, write_text

KEPT = "study.yml"  # the study of a folder, as it last ran
Values = list[Any] | dict[str, Any]  # a mapping gives each value a label


class Search(BaseModel):
    """Which settings are searched, and by what they are judged."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    space: dict[str, Any] = Field(min_length=1)
    """Configuration keys, each with a list of choices or a range: low, high, and `log` or `step`."""
    metric: str = "validation_loss"
    """What is made small: `validation_loss`, or a metric like `c2st.mean`."""
    trials: int = Field(40, ge=1)
    """Number of trials, a total."""
    early_stopping: bool = True
    """Whether trials with a high validation loss are stopped early."""
    seeds: int = Field(3, ge=1)
    """Fresh seeds by which the best settings are measured in the end."""


class Study(BaseModel):
    """What varies, over which configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """Name of the study and of its MLflow experiment."""
    base: dict[str, Any]
    """The configuration of every case: a file beside the study, or a mapping."""
    axes: dict[str, Any] = {}
    """What varies: a configuration key with its values; all combinations are cases."""
    cases: Values = []
    """Settings that belong together, a mapping of keys for each case; crossed with the axes."""
    simulations: str | None = None
    """A run whose simulations the cases use, and add to; null: the study has its own."""
    search: Search | None = None
    """A search in place of axes and cases."""
    parallel: int | None = Field(None, ge=1)
    """Cases at a time; null: as many as the cores allow."""

    @model_validator(mode="after")
    def _varies(self) -> Study:
        if self.search and (self.axes or self.cases):
            raise ValueError("search has a space of its own: give no axes and no cases with it")
        if not self.axes and not self.cases and not self.search:
            raise ValueError("nothing varies: give axes, cases, both, or a search")
        for axis, values in self.axes.items():
            if not isinstance(values, (list, dict)) or not values:
                raise ValueError(
                    f"axis {axis!r} = {values!r}: valid are a list of values, and a mapping of names to values"
                )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the study as JSON values."""
        return self.model_dump(mode="json")


def is_study(path: Path) -> bool:
    """Whether a file has the key `base`, as studies have and configurations have not."""
    return "base" in configuration.parse(_text(path), path)


def read(path: Path, words: Iterable[str] = ()) -> Study:
    """Read a study's file; `words` override the base configuration.

    Raises:
        UsageError: it cannot be read, or holds unknown keys or values of the wrong type.
    """
    values = configuration.parse(_text(path), path)
    base = values.get("base")
    if isinstance(base, str):
        file = path.parent / base
        base = configuration.read(file if file.exists() else Path(base))
    if not isinstance(base, Mapping):
        raise UsageError(f"{path}: base = {base!r}: valid are a configuration file and a mapping")
    values["base"] = anchored(dict(base), path.parent)
    if isinstance(run := values.get("simulations"), str):
        beside = path.parent / run
        values["simulations"] = str((beside if beside.exists() else Path(run)).resolve())
    for axis, given in (values.get("axes") or {}).items():
        values["axes"][axis] = _values_anchored(axis, given, path.parent)
    return build({"name": base.get("name", path.stem), **values}, str(path), words)


def build(values: Mapping[str, Any], source: str, words: Iterable[str] = ()) -> Study:
    """Check plain values and return the study."""
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        valid = sorted(Study.model_fields)
        lines = [explained(detail, valid) for detail in error.errors()]
        raise UsageError(f"{source}: {'; '.join(lines)}") from None
    base = configuration.override(study.base, words)
    varied = {*study.axes, *(study.search.space if study.search else ())}
    varied = varied.union(*(settings for settings in case_settings(study).values()))
    for word in words:
        if (key := word.partition("=")[0]) in varied:
            raise UsageError(f"{word!r}: {key} varies in this study; change its axis in the file")
    return study.model_copy(update={"base": base})


def case_settings(study: Study) -> dict[str, dict[str, Any]]:
    """Return the settings of `cases` by their labels.

    Raises:
        UsageError: one of them is no mapping.
    """
    from pipeline.study.naming import labelled

    found = labelled(study.cases)
    for label, settings in found.items():
        if not isinstance(settings, dict):
            raise UsageError(f"cases: {label!r} is {settings!r}: a mapping of keys is valid")
    return found


def load(folder: Path) -> Study | None:
    """Return the study that a folder keeps, None where there is none.

    Raises:
        DamagedError: it was changed.
    """
    path = folder / KEPT
    try:
        return build(configuration.parse(read_text(path), path), str(path))
    except FileNotFoundError:
        return None
    except UsageError as error:
        raise DamagedError(str(error)) from error


def changed(old: Study, new: Study) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ, but for how much is done and how many cases at a time."""
    before, after = configuration.flat(old.plain()), configuration.flat(new.plain())
    keys = [
        key
        for key in {**before, **after}
        if key not in ("parallel", "search.trials", "search.seeds")
    ]
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def keep(study: Study, folder: Path) -> None:
    """Keep the study in its folder."""
    write_text(folder / KEPT, configuration.text(study.plain()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _values_anchored(axis: str, values: Any, folder: Path) -> Any:
    """Make files absolute that the values of an axis name relative to the study."""

    def absolute(value: Any) -> Any:
        nested = assign({}, axis, value)
        place: Any = anchored(nested, folder)
        for part in axis.split("."):
            place = place[part]
        return place

    if isinstance(values, list):
        return [absolute(value) for value in values]
    if isinstance(values, dict):
        return {label: absolute(value) for label, value in values.items()}
    return values
