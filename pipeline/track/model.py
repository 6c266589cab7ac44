"""The posterior of a training as a model that MLflow logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.tracking.record import Model
from pipeline.errors import DamagedError, PipelineError
from pipeline.report.contents import TrainingContents
from pipeline.results import POSTERIOR
from pipeline.run import RunDirectory
from pipeline.store import Store


def model_of(
    left: TrainingContents, config: Mapping[str, Any], run: RunDirectory, track: Mapping[str, Any]
) -> Model | None:
    """Return the posterior of a finished training; None where there is none, or it takes no observation."""
    if not left.done or not left.posterior or not left.posterior["x"]:
        return None
    import estimators

    described = left.posterior
    inputs = {name: tuple(shape) for name, shape in described["x"].items()}
    return Model(
        name=re.sub(r"[/:.%\"']", "_", left.key),
        digest=str(described["weights"]["sha256"]),
        folder=left.results.folder / POSTERIOR,
        source=Path(estimators.__file__).parent,
        inputs=inputs,
        parameters=len(described["theta"]["names"]),
        sampling_steps=_steps(left),
        example=_example(run, inputs),
        values={"estimator": str(described["estimator"]), "budget": str(config.get("budget"))},
        register=str(track.get("register") or ""),
        best=str(track.get("best") or ""),
    )


def _steps(left: TrainingContents) -> int | None:
    """Return the sampling steps of a draw by default, as the evaluation took them."""
    try:
        return left.results.load().sampling_steps
    except PipelineError:
        return None


def _example(
    run: RunDirectory, inputs: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """Return the outputs of a test simulation as an observation, where their shapes are the inputs'."""
    from pipeline.store import to_numpy

    path = run.store("test")
    if not (path / "store.json").exists():
        return None
    try:
        _, _, x, _ = to_numpy(Store.open(path), 1)
    except (DamagedError, ValueError, IndexError):
        return None
    example = {name: np.asarray(x[name][:1], np.float32) for name in inputs if name in x}
    fits = all(name in example and example[name].shape == (1, *s) for name, s in inputs.items())
    return example if fits else None
