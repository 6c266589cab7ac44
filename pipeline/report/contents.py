"""The contents of a run directory, read for the report and for MLflow; every part may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.config import Config, load
from pipeline.errors import UsageError
from pipeline.results import Results, latest_training
from pipeline.run import STREAMS, RunDirectory
from pipeline.simulate import sources
from pipeline.store import Store
from pipeline.tolerant_reader import TolerantReader


@dataclass(frozen=True)
class TrainingContents:
    """The files of a training; each part is empty where it does not exist yet or is damaged.

    Attributes:
        results: reads the files.
        done: the mark of a finished training.
        facts: what this mark says, by the journal where it or what it vouches for is damaged.
        curves: the losses.
        posterior: the description of the posterior.
        evaluated: the evaluation.
    """

    results: Results
    done: dict[str, Any]
    facts: dict[str, Any]
    curves: list[dict[str, Any]]
    posterior: dict[str, Any]
    evaluated: dict[str, Any]

    @classmethod
    def read(cls, results: Results, reader: TolerantReader) -> TrainingContents:
        """Read all files of a training."""
        results.restore()
        done = reader(results.done) or {}
        return cls(
            results,
            done,
            done or results.told_done(),
            reader(results.curves) or [],
            reader(results.posterior) or {},
            reader(results.evaluated, "evaluate") or {},
        )

    @property
    def key(self) -> str:
        """Key of the training."""
        return self.results.key

    @property
    def steps(self) -> str:
        """The number of optimiser steps, or why there is none."""
        if self.done:
            return count(self.done["steps"])
        return "damaged" if self.results.marked else "not finished"

    @property
    def metrics(self) -> dict[str, Any]:
        """The headline metrics by name."""
        metrics: dict[str, Any] = self.evaluated.get("metrics", {})
        return metrics


@dataclass(frozen=True)
class RunContents:
    """The contents of a run directory, each read at first use."""

    run: RunDirectory

    @cached_property
    def reader(self) -> TolerantReader:
        """Reads the files, and lists damaged ones."""
        return TolerantReader(self.run)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The plain values of the configuration; a `UsageError` where there is none."""
        return self._config.plain()

    @cached_property
    def _config(self) -> Config:
        return load(self.run)

    @cached_property
    def stores(self) -> dict[str, Store]:
        """The store of each stream that has one."""
        paths = {stream: self.run.store(stream) for stream in STREAMS}
        return {s: Store.open(path) for s, path in paths.items() if (path / "store.json").exists()}

    @cached_property
    def sources(self) -> dict[str, list[dict[str, Any]]]:
        """The sources by which the simulations of each stream were made."""
        return {stream: sources.values(store.path) for stream, store in self.stores.items()}

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """The outcomes of each stream's simulations."""
        budgets = self._config.budgets
        return {stream: store.counts(budgets[stream]) for stream, store in self.stores.items()}

    @cached_property
    def trainings(self) -> list[TrainingContents]:
        """All trainings that began, by budget; one whose rows could not be loaded has only its lock."""
        files = self.run.path.glob("trainings/*/*")
        folders = sorted({path.parent for path in files if path.name != "lock"})
        found = [
            TrainingContents.read(Results(self.run, folder.name), self.reader) for folder in folders
        ]
        return sorted(
            found, key=lambda t: (t.posterior.get("provenance", {}).get("budget", 0), t.key)
        )

    @cached_property
    def latest(self) -> TrainingContents | None:
        """The latest training, None if there is none."""
        if not self.trainings:
            return None
        try:
            key = latest_training(self.run, self.reader.note)
        except UsageError:
            return None
        return next((training for training in self.trainings if training.key == key), None)

    @property
    def metrics(self) -> dict[str, Any]:
        """The headline metrics of the latest training."""
        return self.latest.metrics if self.latest else {}

    @property
    def names(self) -> list[str]:
        """The names of the parameters, of the latest training's posterior."""
        theta = self.latest.posterior.get("theta", {}) if self.latest else {}
        return list(theta.get("names", ()))

    @property
    def title(self) -> str:
        """The name of the run."""
        return str(self.config["name"])

    @property
    def lead(self) -> str:
        """The sentence below the title."""
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
