"""What a run directory holds, read for the report; every part may be missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config import read
from pipeline.run import STREAMS, Run
from pipeline.store import Store


@dataclass(frozen=True)
class Training:
    """What a training left: `done` and `evaluated` are empty where it did not come so far."""

    key: str
    done: dict[str, Any]
    evaluated: dict[str, Any]
    posterior: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = self.evaluated.get("metrics", {})
        return metrics


@dataclass(frozen=True)
class Facts:
    """What the run directory holds."""

    run: Run

    @cached_property
    def config(self) -> dict[str, Any]:
        return read(self.run.config)

    @cached_property
    def stores(self) -> dict[str, Store]:
        paths = {stream: self.run.store(stream) for stream in STREAMS}
        return {s: Store.open(path) for s, path in paths.items() if (path / "store.json").exists()}

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        budgets = {"train": self.config["budget"], "test": self.config.get("test", 0)}
        return {stream: store.counts(budgets[stream]) for stream, store in self.stores.items()}

    @cached_property
    def trainings(self) -> list[Training]:
        folders = sorted(path for path in self.run.path.glob("trainings/*/") if path.is_dir())
        found = [
            Training(
                folder.name,
                read_json(folder / "done.json"),
                read_json(folder / "evaluation" / "metrics.json"),
                read_json(folder / "posterior" / "posterior.json"),
            )
            for folder in folders
        ]
        return sorted(
            found, key=lambda t: (t.posterior.get("provenance", {}).get("budget", 0), t.key)
        )

    @cached_property
    def latest(self) -> Training | None:
        key = read_json(self.run.path / "latest.json").get("training")
        return next((training for training in self.trainings if training.key == key), None)

    @property
    def metrics(self) -> dict[str, Any]:
        return self.latest.metrics if self.latest else {}

    @property
    def title(self) -> str:
        return str(self.config["name"])

    @property
    def lead(self) -> str:
        simulator = self.config["simulator"]["name"].rpartition("/")[2]
        if self.latest is None:
            return f"Simulations of {simulator}; no posterior is trained yet."
        budget = self.latest.posterior.get("provenance", {}).get("budget", self.config["budget"])
        sets = max((metric.get("n", 0) for metric in self.metrics.values()), default=0)
        tested = f", measured on {sets} test simulations" if sets else ", not measured yet"
        estimator = self.latest.posterior.get("estimator", self.config["estimator"]["name"])
        return f"Posterior of {simulator} from {count(budget)} simulations by {estimator}{tested}."


def count(number: int) -> str:
    """Write a number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, an empty one where there is none."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return loaded
