"""A posterior on disk: a folder of tensors and JSON, with no pickled classes.

posterior.json   format version, estimator's name and arguments, names, bounds and shapes,
                 sha256 of the weights, provenance
weights.pt       the module's tensors, standardisation included; opened with weights_only=True
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from estimators.estimator import Estimator, Problem
from estimators.posterior import Posterior
from estimators.registry import build

FORMAT = 2  # 2: the training range of x
DESCRIPTION, WEIGHTS = "posterior.json", "weights.pt"


class ArtefactError(ValueError):
    """A folder that holds no readable posterior."""


def save(path: Path, estimator: Estimator, provenance: Mapping[str, Any]) -> None:
    """Write `estimator` into the folder `path`; a reader sees the old one or the new one.

    Raises:
        ValueError: the estimator was not made by `estimators.create`.
        TypeError: provenance is not JSON.
    """
    if not estimator.name:
        raise ValueError("only an estimator made by estimators.create can be saved: it has no name")
    buffer = io.BytesIO()
    torch.save({k: v.detach().cpu() for k, v in estimator.state_dict().items()}, buffer)
    weights = buffer.getvalue()
    problem = estimator.problem
    description = {
        "format": FORMAT,
        "estimator": estimator.name,
        "arguments": estimator.arguments,
        "theta": {
            "names": problem.names,
            "scales": problem.scales,
            "low": [_finite(value) for value in problem.low],
            "high": [_finite(value) for value in problem.high],
        },
        "x": problem.x,
        "preprocessing": problem.preprocessing,
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
        "provenance": dict(provenance),
    }
    text = json.dumps(description, indent=2, allow_nan=False)
    new = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    _write(new / WEIGHTS, weights)
    _write(new / DESCRIPTION, text.encode())
    _exchange(new, path)


def load(path: Path, device: str) -> Posterior:
    """Return the posterior in the folder `path`.

    Raises:
        ArtefactError: nothing there, something damaged, or a newer format.
        LookupError: its estimator is not installed.
    """
    folder = path if path.exists() else _aside(path)
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        weights = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise ArtefactError(f"{path}: no posterior here ({error.filename} is missing)") from error
    except ValueError as error:
        raise ArtefactError(f"{path / DESCRIPTION}: damaged ({error})") from error
    version = description.get("format") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise ArtefactError(f"{path / DESCRIPTION}: damaged (no format version)")
    if version > FORMAT:
        raise ArtefactError(
            f"{path}: written in format {version} by a newer sbiflow; this one reads up to {FORMAT}"
        )
    if version < FORMAT:
        raise ArtefactError(f"{path}: written in the older format {version}; train it anew")
    try:
        problem = _problem(description)
        name, given = description["estimator"], description["arguments"]
        digest, provenance = description["weights"]["sha256"], description["provenance"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path / DESCRIPTION}: damaged ({error!r})") from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ArtefactError(f"{path / WEIGHTS}: damaged (not the bytes posterior.json describes)")
    estimator = build(name, problem, given)
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        estimator.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ArtefactError(
            f"{path / WEIGHTS}: does not fit estimator {name!r}: {error}"
        ) from error
    return Posterior(estimator.to(device).eval(), provenance)


def _problem(description: dict[str, Any]) -> Problem:
    theta = description["theta"]
    return Problem(
        names=tuple(theta["names"]),
        low=tuple(-math.inf if value is None else float(value) for value in theta["low"]),
        high=tuple(math.inf if value is None else float(value) for value in theta["high"]),
        x={name: tuple(shape) for name, shape in description["x"].items()},
        scales=tuple(theta.get("scales", ())),
        preprocessing=description.get("preprocessing", "none"),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`; killed in between, the old one lies aside."""
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")
