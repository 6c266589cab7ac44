"""What one MLflow run holds, without MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class TrackingError(RuntimeError):
    """MLflow refused; the message says what."""


@dataclass(frozen=True)
class Data:
    """A data set that an MLflow run was made from: name, digest, and where it is."""

    name: str
    digest: str
    place: str


@dataclass(frozen=True)
class Point:
    """A metric's value at a step.

    Attributes:
        name: of the metric.
        value: a finite number.
        step: optimiser steps, simulations, or sampling steps.
        time: milliseconds since 1970.
        data: the data set that it was measured on, where it says how good the model is.
    """

    name: str
    value: float
    step: int
    time: int
    data: Data | None = None


@dataclass(frozen=True)
class Model:
    """A posterior to be logged.

    Attributes:
        name: of the logged model.
        digest: SHA-256 of its weights, by which it is known again.
        folder: posterior.json and weights.pt.
        source: folder of the package that loads it.
        inputs: arrays of an observation, name -> shape.
        parameters: D, of one draw.
        sampling_steps: network passes by default; None where there is no choice.
        example: one observation, name -> array (1, ...); None where there is none.
        values: parameters of the logged model.
        register: name in the model registry, "" for none.
        best: metric whose lowest value has the alias `best`; with a minus in front, whose highest.
    """

    name: str
    digest: str
    folder: Path
    source: Path
    inputs: Mapping[str, tuple[int, ...]]
    parameters: int
    sampling_steps: int | None
    example: Mapping[str, Any] | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    register: str = ""
    best: str = ""


@dataclass(frozen=True)
class Record:
    """What one MLflow run holds.

    Attributes:
        key: identifies the run on every server.
        name: shown in lists.
        parameters: fixed once they are there.
        tags: may change.
        points: values of metrics.
        artefacts: files, each under the folder where it is kept ("" is the top).
        data: what it was made from.
        start, end: milliseconds since 1970; end is None while it goes on.
        status: as MLflow calls it.
        parent: key of the run that this one is shown below, "" for none.
        model: the posterior that it gave.
    """

    key: str
    name: str
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    points: Sequence[Point]
    artefacts: Sequence[tuple[Path, str]]
    data: Sequence[Data]
    start: int
    end: int | None = None
    status: Status = "FINISHED"
    parent: str = ""
    model: Model | None = None


@dataclass
class Added:
    """How much a `publish` added."""

    runs: list[str] = field(default_factory=list)  # ids of all runs, new or old
    created: int = 0
    points: int = 0
    parameters: int = 0
    tags: int = 0
    artefacts: int = 0


def check_uri(uri: str) -> None:
    """Refuse an address that depends on the working directory, and MLflow's former file store."""
    scheme, colon, rest = uri.partition(":")
    valid = "valid: sqlite:////absolute/path.db, http://127.0.0.1:5000, ..."
    if not colon or "/" in scheme or scheme == "file":
        raise ValueError(
            f"tracking address {uri!r} is a folder, which MLflow no longer takes; {valid}"
        )
    if scheme == "sqlite" and not rest.startswith("////"):
        raise ValueError(f"tracking address {uri!r} is relative to the working directory; {valid}")


@dataclass
class Known:
    """What the server has of one MLflow run."""

    run_id: str
    artifacts: str  # address of its files
    status: str
    tags: dict[str, str]
    parameters: set[str]
    points: set[tuple[str, int, float]]
    data: set[str]
    model: str = ""  # id of the logged model
    model_tags: dict[str, str] = field(default_factory=dict)
