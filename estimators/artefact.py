"""A posterior on disk: a folder of tensors and JSON, with no pickled classes.

posterior.json   format version, estimator's name and arguments, names, bounds and shapes,
                 sha256 of the weights, provenance; as the last its own checksum
weights.pt       the module's tensors, standardisation included; opened with weights_only=True
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from estimators import recalibration
from estimators.description import DESCRIPTION, FORMAT, WEIGHTS, ArtefactError, aside, read, sealed
from estimators.estimator import Estimator
from estimators.posterior import Posterior
from estimators.problem import InferenceProblem
from estimators.registry import build


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
            "shape": problem.parameter_shape,
            **({"kinds": problem.kinds} if problem.kinds else {}),
            **({"simplexes": problem.simplexes} if problem.simplexes else {}),
        },
        "x": problem.x,
        "preprocessing": problem.preprocessing,
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
        "provenance": dict(provenance),
    }
    text = sealed(description)
    new = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    _write(new / WEIGHTS, weights)
    _write(new / DESCRIPTION, text)
    _exchange(new, path)


def load(path: Path, device: str) -> Posterior:
    """Return the posterior in the folder `path`.

    Raises:
        ArtefactError: nothing there, something damaged, or a newer format.
        LookupError: its estimator is not installed.
    """
    return restore(path, *read(path), device)


def restore(
    path: Path, description: dict[str, Any], weights: bytes, device: str = "cpu"
) -> Posterior:
    """Return the posterior that `read` found in the folder `path`.

    Raises:
        ArtefactError: the description and the weights do not fit together.
        LookupError: its estimator is not installed.
    """
    try:
        problem = _problem(description)
        name, given = description["estimator"], description["arguments"]
        provenance = description["provenance"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path / DESCRIPTION}: damaged ({error!r})") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # older artefacts hold former names
        estimator = build(name, problem, given)
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        estimator.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ArtefactError(
            f"{path / WEIGHTS}: does not fit estimator {name!r}: {error}"
        ) from error
    posterior = estimator.to(device).eval().posterior(provenance)
    posterior.recalibration = recalibration.load(path, description["weights"]["sha256"])
    return posterior


def _problem(description: dict[str, Any]) -> InferenceProblem:
    theta = description["theta"]
    return InferenceProblem(
        names=tuple(theta["names"]),
        low=tuple(-math.inf if value is None else float(value) for value in theta["low"]),
        high=tuple(math.inf if value is None else float(value) for value in theta["high"]),
        x={name: tuple(shape) for name, shape in description["x"].items()},
        scales=tuple(theta.get("scales", ())),
        preprocessing=description.get("preprocessing", "none"),
        shape=_image(theta.get("shape", ())),
        kinds=tuple(theta.get("kinds", ())),
        simplexes=tuple(map(tuple, theta.get("simplexes", ()))),
    )


def _image(shape: list[int]) -> tuple[int, ...]:
    """Return the shape of parameters that are an array of several axes; () is that of all others."""
    return tuple(shape) if len(shape) > 1 else ()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`; killed in between, the old one lies aside."""
    old = aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
