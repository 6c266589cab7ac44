"""A posterior as MLflow loads it: `mlflow.pyfunc.load_model(...)`, with torch and mlflow alone.

This module imports nothing of MLflow. A logged model has a copy of this package beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from estimators.artefact import load
from estimators.posterior import Posterior

DRAWS = 1000  # of a prediction that names no number


class PosteriorModel:
    """Draws from a posterior, in the form that MLflow expects of a model.

    Arguments:
        posterior: that of the logged model.
    """

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior

    def predict(
        self, model_input: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Return draws for B observations, shape (B, n, D), natural units, float32.

        Arguments:
            model_input: outputs of the simulator by name, each (B, ...).
            params: `draws`, `seed` and, where the estimator has a choice, `sampling_steps`.
        """
        asked = dict(params or {})
        draws = self.posterior.sample(
            {name: np.asarray(values) for name, values in dict(model_input).items()},
            int(asked.get("draws", DRAWS)),
            sampling_steps=asked.get("sampling_steps"),
            seed=int(asked.get("seed", 0)),
        )
        return np.asarray(draws.cpu().numpy())


def _load_pyfunc(path: str) -> PosteriorModel:
    """Return the model in a folder with `posterior.json` and `weights.pt`; MLflow calls this."""
    return PosteriorModel(load(Path(path), "cpu"))
