"""Posteriors as logged models of MLflow: linked to their run, registered on request.

The files of a logged model hold the weights, their description and the package that loads them, so that
`mlflow.pyfunc.load_model` needs torch and mlflow alone, and nothing is pickled.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model as Description
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from evaluation.tracking.record import Known, Model, Point

WEIGHTS_TAG, VALUE_TAG, MODEL_TAG = "sbiflow.weights", "sbiflow.best_by", "sbiflow.model"
LOADER = "estimators.pyfunc"  # module that MLflow asks for the model
CODE, DATA = "code", "posterior"  # folders
BEST = "best"  # alias of the best version
PACKAGES = "torch", "numpy"


def log(client: MlflowClient, experiment: str, known: Known, model: Model) -> None:
    """Log a model unless the run already gave one with these weights, and note its id."""
    if known.model and known.model_tags.get(WEIGHTS_TAG) == model.digest:
        return
    found = client.search_logged_models(
        [experiment], filter_string=f"source_run_id = '{known.run_id}'"
    )
    ready = [m for m in found if m.tags.get(WEIGHTS_TAG) == model.digest and m.status == "READY"]
    if ready:
        known.model, known.model_tags = ready[0].model_id, dict(ready[0].tags)
        return
    tags = {WEIGHTS_TAG: model.digest}
    made = client.create_logged_model(
        experiment, model.name, known.run_id, tags, dict(model.values), "posterior"
    )
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), model, made.model_id, known.run_id)
        client.log_model_artifacts(made.model_id, folder)
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(known.run_id, [LoggedModelOutput(made.model_id, 0)])
    known.model, known.model_tags = made.model_id, tags


def write(folder: Path, model: Model, model_id: str | None = None, run_id: str = "") -> None:
    """Write the files of a logged model into a folder."""
    shutil.copytree(model.folder, folder / DATA)
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", "testing*.py")
    shutil.copytree(model.source, folder / CODE / model.source.name, ignore=skipped)
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in PACKAGES))
    description = Description(model_id=model_id, run_id=run_id, signature=signature(model))
    description.add_flavor(
        "python_function",
        loader_module=LOADER,
        code=CODE,
        data=DATA,
        python_version=platform.python_version(),
    )
    if model.example is not None:
        _write_example(folder, description, model)
    description.save(str(folder / "MLmodel"))


def _write_example(folder: Path, description: Description, model: Model) -> None:
    """Write an observation in the form that MLflow reads input examples in."""
    content = {name: np.asarray(values).tolist() for name, values in (model.example or {}).items()}
    name = "input_example.json"
    (folder / name).write_text(json.dumps({"inputs": content}))
    description.saved_input_example_info = {
        "artifact_path": name,
        "type": "ndarray",
        "format": "tf-serving",
    }


def signature(model: Model) -> ModelSignature:
    """Return the arrays of an observation, the draws, and the settings of a prediction."""
    real = np.dtype("float32")
    inputs = [TensorSpec(real, (-1, *shape), name) for name, shape in model.inputs.items()]
    settings = [ParamSpec("draws", "long", 1000), ParamSpec("seed", "long", 0)]
    if model.sampling_steps is not None:
        settings.append(ParamSpec("sampling_steps", "long", model.sampling_steps))
    outputs = Schema([TensorSpec(real, (-1, -1, model.parameters))])
    return ModelSignature(Schema(inputs), outputs, ParamSchema(settings))


def register(client: MlflowClient, known: Known, model: Model, points: Sequence[Point]) -> None:
    """Make the logged model a version of a registered one, and give the best version its alias."""
    if not client.search_registered_models(f"name = '{model.register}'"):
        client.create_registered_model(model.register)
    versions = client.search_model_versions(f"name = '{model.register}'")
    own = next((v for v in versions if dict(v.tags).get(MODEL_TAG) == known.model), None)
    if own is None:
        place = client.get_logged_model(known.model).artifact_location
        own = client.create_model_version(
            model.register, place, known.run_id, {MODEL_TAG: known.model}, model_id=known.model
        )
        versions = [*versions, own]
    sign, name = (-1.0, model.best[1:]) if model.best.startswith("-") else (1.0, model.best)
    measured = [point.value for point in points if point.name == f"quality/{name}"]
    if not measured:
        return
    value = f"{model.best} = {sign * measured[0]!r}"
    client.set_model_version_tag(model.register, own.version, VALUE_TAG, value)
    values = {v.version: dict(v.tags).get(VALUE_TAG, "") for v in versions} | {own.version: value}
    comparable = {
        version: float(text.rpartition("=")[2])
        for version, text in values.items()
        if text.startswith(f"{model.best} =")
    }
    best = min(comparable, key=lambda version: (comparable[version], -int(version)))
    try:
        if client.get_model_version_by_alias(model.register, BEST).version == best:
            return
    except MlflowException:  # there is none yet
        pass
    client.set_registered_model_alias(model.register, BEST, best)
