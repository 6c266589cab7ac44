"""The cases of a study: every combination of its values, each an ordinary run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config as configuration
from pipeline.config import Config
from pipeline.config.reading import anchored, assign
from pipeline.errors import DamagedError, PipelineError, UsageError
from pipeline.files import read_document, write_document
from pipeline.results import Results
from pipeline.run import RunDirectory
from pipeline.study.naming import case_name, labelled
from pipeline.study.schema import Study, case_settings

CASES, MARK = "cases", "case.json"
LISTED = "case"  # the axis of `cases`
WITHOUT_EFFECT = ("name", "max_failed", "store", "track", "cluster")  # on the numbers of a case


@dataclass(frozen=True)
class StudyCase:
    """A training of a study.

    Attributes:
        name: of its run directory.
        labels: its value on each axis, as it reads.
        settings: what it sets, by key.
        config: its whole configuration.
        run: its run directory.
    """

    name: str
    labels: dict[str, str]
    settings: dict[str, Any]
    config: Config
    run: RunDirectory

    @property
    def digest(self) -> str:
        """A hash of all settings that its numbers depend on."""
        values = {k: value for k, value in self.config.plain().items() if k not in WITHOUT_EFFECT}
        values["simulate"] = {"block": self.config.simulate.block}
        return configuration.digest(values)

    def finished(self) -> Results | None:
        """Return what the case left, if it is complete, intact, and of this configuration."""
        mark = self._mark()
        if mark.get("config") != self.digest:
            return None
        try:
            results = Results(self.run, str(mark["training"]))
            complete = results.done() is not None and results.evaluated() is not None
        except (PipelineError, KeyError):
            return None
        return results if complete else None

    def failure(self) -> str:
        """Return why the last attempt failed, "" if it did not."""
        mark = self._mark()
        return str(mark.get("failed", "")) if mark.get("config") == self.digest else ""

    def mark(self, **content: Any) -> None:
        """Note how an attempt ended: its training, or why it failed."""
        write_document(self.run.path / MARK, {"format": 1, "config": self.digest, **content})

    def _mark(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = read_document(self.run.path / MARK)
        except (FileNotFoundError, DamagedError):
            return {}
        return content


def cases(study: Study, folder: Path) -> list[StudyCase]:
    """Return all cases of a study.

    Raises:
        UsageError: an axis that is no key, a value of the wrong type, or two cases with equal settings.
    """
    axes: list[tuple[str, dict[str, Any]]] = []
    if listed := case_settings(study):
        axes.append((LISTED, listed))
    axes += [(axis, labelled(values)) for axis, values in study.axes.items()]
    found = [
        _case(study, folder, dict(zip((axis for axis, _ in axes), labels, strict=True)), dict(axes))
        for labels in itertools.product(*(values for _, values in axes))
    ]
    _check_different(found)
    return found


def _case(
    study: Study, folder: Path, labels: dict[str, str], axes: Mapping[str, Mapping[str, Any]]
) -> StudyCase:
    settings: dict[str, Any] = {}
    for axis, name in labels.items():
        value = axes[axis][name]
        given = value if axis == LISTED else {axis: value}
        if twice := settings.keys() & given.keys():
            raise UsageError(f"{sorted(twice)[0]!r} is an axis and in cases: give it once")
        settings |= given
    _check_separate(settings)
    name = case_name(labels)
    values = json.loads(json.dumps(study.base))
    try:
        for key, value in settings.items():
            assign(values, key, value)
        config = configuration.build(anchored(values, Path.cwd()))
    except UsageError as error:
        raise UsageError(f"case {name}: {error}") from None
    return StudyCase(name, labels, settings, config, RunDirectory(folder / CASES / name))


def _check_separate(settings: Mapping[str, Any]) -> None:
    """Refuse a key within another one: which of the two values counts would depend on their order."""
    for inner in settings:
        for outer in settings:
            if inner.startswith(f"{outer}."):
                raise UsageError(
                    f"{inner!r} lies within {outer!r}, and both are given: give one of them"
                )


def _check_different(found: list[StudyCase]) -> None:
    """Refuse two cases that would give the same numbers."""
    seen: dict[str, str] = {}
    for case in found:
        if case.digest in seen:
            raise UsageError(f"cases {seen[case.digest]} and {case.name} have equal settings")
        seen[case.digest] = case.name


def steps_of(config: Config) -> int:
    """Return the optimiser steps of a training, if no simulation fails."""
    from pipeline.train.setup import DEFAULT_STEPS

    train = config.train
    if train.epochs is None:
        return train.steps or DEFAULT_STEPS
    rows = round(config.budget * (1 - train.validation))
    return max(1, round(train.epochs * (rows // train.batch_size)))
