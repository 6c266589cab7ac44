"""The parameters of MLflow runs: what determines a result, by searchable keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config import flat

SHOWN = ("budget", "design", "seed", "test", "simulator", "estimator", "train", "evaluate")


def training_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a training; not where it ran, nor what MLflow itself is told."""
    shown = {key: config[key] for key in SHOWN if key in config}
    return {name: _text(value) for name, value in flat(shown).items()}


def prior_parameters(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the prior of a store as `prior.NAME`, one for each parameter of an independent one."""
    prior = identity.get("prior") or identity.get("simulator", {}).get("prior") or {}
    if not isinstance(prior, Mapping):
        return {"prior": _text(prior)}
    if not all(isinstance(value, Mapping) for value in prior.values()):
        return {f"prior.{name}": _text(value) for name, value in prior.items()}
    return {f"prior.{name}": _distribution(value) for name, value in prior.items()}


def _distribution(values: Mapping[str, Any]) -> str:
    """Return a distribution like `uniform(low=-1, high=1)`."""
    arguments = ", ".join(f"{k}={_text(v)}" for k, v in values.items() if k != "name")
    return f"{values.get('name', '')}({arguments})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
