"""The simulations of a study: a store for each identity, which its cases share.

A store is grown once, to the largest budget among its cases; a case uses the first ids. It lies in a run directory
of its own, and the run directory of a case links to it:

    DIR/simulations/NAME/   store/, references/: an ordinary run, without trainings
    DIR/cases/CASE/         store -> ../../simulations/NAME/store, references -> ...
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import config as configuration
from pipeline import events, stages
from pipeline.config import IMPORTED, Config, flat
from pipeline.config.comparison import FIXED
from pipeline.errors import UsageError
from pipeline.files import canonical, canonical_text, writing
from pipeline.run import RunDirectory
from pipeline.simulate.setup import check_failed, identity, spec_of
from pipeline.stop import Stop
from pipeline.store import Store
from pipeline.study.case import StudyCase
from pipeline.study.naming import label

SIMULATIONS = "simulations"
SHARED = ("store", "references", "cache")  # folders of a run that its cases share
KEYS = ("seed", "simulator", "prior", "design", "max_failed", "simulate", "store", "cluster")


@dataclass(frozen=True)
class Simulations:
    """Simulations of one identity, and the cases that use them.

    Attributes:
        name: of its run directory.
        differs: what tells it from the other stores of the study, by key.
        config: of the largest budgets.
        run: its run directory.
        cases: those that use it.
        source: a run whose simulations these are; None: the study has its own.
    """

    name: str
    differs: dict[str, Any]
    config: Config
    run: RunDirectory
    cases: tuple[StudyCase, ...]
    source: RunDirectory | None = None

    def missing(self) -> dict[str, int]:
        """Return how many simulations of each stream are still to run."""
        absent = {}
        own = (self.run.path / "store").exists() or self.source is None
        for stream, budget in self.config.budgets.items():
            path = (self.run if own or self.source is None else self.source).store(stream)
            there = (path / "store.json").exists()
            absent[stream] = len(Store.open(path).absent(budget)) if there else budget
        return absent

    def simulate(self, stop: Stop, share: bool = False) -> None:
        """Run what is missing.

        Arguments:
            stop: request to leave.
            share: without Ray, together with other processes.

        Raises:
            TooManyFailed: more than the share `max_failed` is not ok.
        """
        config = stages.configure(self.run, self.config.plain())
        if self.source is not None:
            _link(self.run.path / "store", (self.source.path / "store").resolve())
        if any(self.missing().values()):
            with self.run.lock(shared=share):
                (stages.simulate_shared if share else stages.simulate)(config, self.run, stop)
        for stream, budget in self.config.budgets.items():
            if budget:
                counts = Store.open(self.run.store(stream)).counts(budget)
                check_failed(stream, counts, self.config.max_failed)

    def link(self, case: StudyCase) -> None:
        """Let a case's run directory show these simulations, and note them in its journal."""
        for name in SHARED:
            target, link = self.run.path / name, case.run.path / name
            with writing(target):
                target.mkdir(parents=True, exist_ok=True)
            _link(link, Path(os.path.relpath(target, link.parent)))
        self._note(case)

    def _note(self, case: StudyCase) -> None:
        told = [
            event for event in events.read(case.run).events if event.get("event") == "simulated"
        ]
        record = stages.begin(case.config, case.run, "simulate")
        budgets = {stream: budget for stream, budget in case.config.budgets.items() if budget}
        for stream, budget in budgets.items():
            counts = Store.open(self.run.store(stream)).counts(budget)
            known = [event.get("counts") for event in told if event.get("stream") == stream]
            if not known:
                record({"event": "start"})
            if not known or known[-1] != counts:
                record({"event": "simulated", "stream": stream, "budget": budget, "counts": counts})


def _link(link: Path, target: Path) -> None:
    """Make a link, or leave what is there."""
    with writing(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def simulations(cases: Sequence[StudyCase], folder: Path) -> list[Simulations]:
    """Return the simulations that cases need, one for each identity."""
    groups: dict[str, list[StudyCase]] = {}
    for case in cases:
        groups.setdefault(_name(case.config), []).append(case)
    settings = {name: flat(_identity(group[0].config)) for name, group in groups.items()}
    keys = dict.fromkeys(key for one in settings.values() for key in one)
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings.values()}) > 1]
    return [
        Simulations(
            name,
            {key: settings[name].get(key) for key in differing},
            _largest(group),
            RunDirectory(folder / SIMULATIONS / name),
            tuple(group),
        )
        for name, group in groups.items()
    ]


def from_run(shared: Sequence[Simulations], path: str) -> list[Simulations]:
    """Return simulations of which those that a run has are taken from there.

    Raises:
        UsageError: it has none, or none of the study's.
    """
    run = RunDirectory(Path(path))
    if not (run.store("train") / "store.json").exists():
        raise UsageError(f"simulations = {path!r} is no run with simulations")
    taken = [replace(one, source=run) if _same(run, one.config) else one for one in shared]
    if not any(one.source for one in taken):
        raise UsageError(
            f"simulations = {path!r}: simulator, prior, seed, design or block differ from those of all cases"
        )
    return taken


def _same(run: RunDirectory, config: Config) -> bool:
    """Return whether a run has the simulations that a configuration asks for."""
    path = run.store("train")
    if config.simulator.name == IMPORTED:
        return configuration.load(run).simulator.name == IMPORTED
    return bool(
        canonical(Store.open(path).identity) == canonical(identity(spec_of(config, "train")))
    )


def _identity(config: Config) -> dict[str, Any]:
    """Return the settings that identify simulations."""
    values = config.plain()
    found = {key: values[key] for key in FIXED if key in values and key != "name"}
    return found | {"simulate": {"block": config.simulate.block}}


def _name(config: Config) -> str:
    """Return the name of the simulations of a configuration: the same in every study."""
    text = canonical_text(_identity(config))
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{label(config.simulator.name)}-seed-{config.seed}-{digest}"


def _largest(group: Sequence[StudyCase]) -> Config:
    """Return a configuration of the simulations alone, of the largest budgets of a group."""
    first = group[0].config
    values = {key: value for key, value in first.plain().items() if key in KEYS}
    values["name"] = label(first.simulator.name)
    values["budget"] = max(case.config.budget for case in group)
    values["test"] = max(case.config.test for case in group)
    return configuration.build(values)
