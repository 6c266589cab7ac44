"""The history of a run for MLflow: one record for the run, and below it one for each training and evaluation.

Events and their times come from the journal; what is missing there comes from the files of the trainings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from evaluation.journal import Content
from evaluation.tracking.record import Data, Record
from pipeline.cache import FileCache
from pipeline.config import flat, kept
from pipeline.events import read as read_events
from pipeline.report.contents import TrainingContents
from pipeline.report.verdict import verdicts
from pipeline.results import (
    CURVES,
    DESCRIPTION,
    DONE,
    METRICS,
    WEIGHTS,
    Results,
    abc_done,
)
from pipeline.run import STREAMS, RunDirectory
from pipeline.tolerant_reader import TolerantReader
from pipeline.track import artefacts, points
from pipeline.track.model import model_of
from pipeline.track.outcome import Event, RunStatus, outcome
from pipeline.track.parameters import prior_parameters, training_parameters

EVALUATION = "evaluation"  # end of the key of an evaluation
FORMER = "simulations"  # end of the key of what version 0.2 wrote before the first training
_lefts = FileCache[TrainingContents]()  # of trainings whose files do not change


@dataclass(frozen=True)
class History:
    """The history of a run.

    Arguments:
        run: the run directory.
        folder: for files that are made for the upload.
        running: whether a process works on the run.
        whole: with files, pictures and models; without, records are quick to make.
    """

    run: RunDirectory
    folder: Path
    running: bool = False
    whole: bool = True
    _read: dict[str, TrainingContents] = field(default_factory=dict)

    @cached_property
    def content(self) -> Content:
        """The journal."""
        return read_events(self.run)

    @property
    def events(self) -> list[Event]:
        """The events of the journal, in order."""
        return self.content.events

    @cached_property
    def reader(self) -> TolerantReader:
        """Reads the files of the trainings, and lists damaged ones."""
        return TolerantReader(self.run)

    @cached_property
    def configured(self) -> dict[str, Any]:
        """The run's configuration, as it is now."""
        return kept(self.run) or {}

    @cached_property
    def identity(self) -> str:
        """A name of this run that does not depend on where its directory is."""
        if self.content.identity:
            return self.content.identity
        first = self.configured
        return hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def known(self) -> set[Any]:
        """All names and numbers of the run's history: what an earlier sync may have written to MLflow."""
        configs = [event["config"] for event in self.events if "config" in event]
        told = [flat(config) for config in (*configs, self.configured)]
        texts = {text(value) for values in told for value in values.values()}
        ends = [FORMER, *self.trainings, *(f"{key}/{EVALUATION}" for key in self.trainings)]
        return (
            texts
            | {0, *(f"{self.identity}/{end}" for end in ends)}
            | set(_leaves([self.events, told]))
        )

    @cached_property
    def trainings(self) -> list[str]:
        """Keys of all trainings, the oldest first."""
        folders = self.run.path.glob("trainings/*/")
        told = [str(event["training"]) for event in self.events if "training" in event]
        untold = [folder.name for folder in folders if (folder / CURVES).exists()]
        return list(dict.fromkeys([*told, *sorted(untold)]))

    def records(self) -> Iterator[Record]:
        """Yield the record of the run, then those below it."""
        yield self._whole_run()
        for key in self.trainings:
            left = self._left(key)
            yield self._training(left)
            if left.evaluated or self._own("evaluate", key):
                yield self._evaluation(left)
        for key in dict.fromkeys(str(e["abc"]) for e in self.events if "abc" in e):
            yield self._abc(key)

    # --- records ---------------------------------------------------------------------------------

    def _whole_run(self) -> Record:
        latest = self._left(self.trainings[-1]) if self.trainings else None
        done = bool(latest and (latest.done or latest.evaluated))
        stands = outcome(self.events, done and self._last_is_start, False)
        if self.running:
            stands = RunStatus("RUNNING", "", stands.start, None)
        tags = {"sbiflow.kind": "run"} | self._common(stands, self.events)
        if latest is not None:
            tags |= self._said(latest)
        return Record(
            key=self.identity,
            name=str(self.configured.get("name", self.run.path.name)),
            parameters=self._simulations(),
            tags=tags,
            points=list(points.simulated(self.events)),
            artefacts=list(artefacts.of_run(self.run, self.folder)) if self.whole else [],
            data=[],
            **_when(stands),
        )

    def _training(self, left: TrainingContents) -> Record:
        config = self._config(left)
        own = self._own("train", left.key)
        stands = outcome(own, bool(left.done), self._runs("train", left.key), self._began)
        made = artefacts.of_training(left, config, self.reader, self.folder)
        return Record(
            key=f"{self.identity}/{left.key}",
            name=f"{config.get('name', self.run.path.name)} {left.key}",
            parameters=training_parameters(config) | prior_parameters(self._identity),
            tags={"sbiflow.kind": "training"} | self._tags(left, stands, own),
            points=[
                *points.trained(own, left.curves),
                *points.measured(self._own("evaluate", left.key), left, self._test(left)),
                *points.inverted(self.events, left.key),
            ],
            artefacts=list(made) if self.whole else [],
            data=list(self._data(left)),
            parent=self.identity,
            model=model_of(left, config, self.run, self._registry) if self.whole else None,
            **_when(stands),
        )

    def _evaluation(self, left: TrainingContents) -> Record:
        config, own = self._config(left), self._own("evaluate", left.key)
        running = self._runs("evaluate", left.key)
        stands = outcome(own, bool(left.evaluated), running, self._began)
        asked = {f"evaluate.{k}": v for k, v in config.get("evaluate", {}).items()}
        settings = left.evaluated.get("settings", {})
        asked |= {f"evaluate.{k}": v for k, v in settings.items() if k in ("draws", "seed")}
        return Record(
            key=f"{self.identity}/{left.key}/{EVALUATION}",
            name=f"{config.get('name', self.run.path.name)} {left.key} {EVALUATION}",
            parameters={key: text(value) for key, value in asked.items()},
            tags={"sbiflow.kind": EVALUATION} | self._tags(left, stands, own),
            points=[
                *points.evaluating(own),
                *points.measured(own, left, self._test(left)),
                *points.by_parameter(own, left),
            ],
            artefacts=list(artefacts.of_evaluation(left)) if self.whole else [],
            data=[one for one in self._data(left) if one.name.startswith("test")],
            parent=self.identity,
            **_when(stands),
        )

    def _abc(self, key: str) -> Record:
        own = [event for event in self.events if event.get("abc") == key]
        done = self.reader(lambda: abc_done(self.run, key), "abc") or {}
        running = self.running and self._last_start.get("abc") == key
        stands = outcome(own, bool(done), running, self._began)
        configs = [event["config"] for event in own if "config" in event]
        asked: dict[str, Any] = configs[0].get("abc", {}) if configs else {}
        return Record(
            key=f"{self.identity}/abc/{key}",
            name=f"{self.configured.get('name', self.run.path.name)} abc {key}",
            parameters=self._simulations() | {f"abc.{k}": text(v) for k, v in asked.items()},
            tags={"sbiflow.kind": "abc"} | self._common(stands, own),
            points=list(points.approximated(own, done)),
            artefacts=list(artefacts.of_abc(self.run, key)) if self.whole else [],
            data=list(self._abc_data(key, done)),
            parent=self.identity,
            **_when(stands),
        )

    # --- what records are made of ----------------------------------------------------------------

    def _left(self, key: str) -> TrainingContents:
        if key not in self._read:
            results = Results(self.run, key)
            read = partial(TrainingContents.read, results, self.reader)
            names = DONE, CURVES, DESCRIPTION, WEIGHTS, METRICS
            files = tuple(p for name in names if (p := results.folder / name).exists())
            self._read[key] = read() if self.whole else _lefts.get((key, files), files, read)
        return self._read[key]

    def _own(self, stage: str, key: str) -> list[Event]:
        """Return the events of a stage of a training."""
        return [e for e in self.events if e.get("training") == key and e.get("stage") == stage]

    @cached_property
    def _last_start(self) -> Event:
        return next((e for e in reversed(self.events) if e.get("event") == "start"), {})

    @property
    def _last_is_start(self) -> bool:
        """Whether nothing but a start is told: of a training that was complete before."""
        return bool(self.events) and self.events[-1] is self._last_start

    def _runs(self, stage: str, key: str) -> bool:
        last = self._last_start
        return self.running and (last.get("stage"), last.get("training")) == (stage, key)

    @cached_property
    def _began(self) -> int:
        return outcome(self.events, True, False).start

    @property
    def _registry(self) -> Mapping[str, Any]:
        track: Mapping[str, Any] = self.configured.get("track", {})
        return track

    def _config(self, left: TrainingContents) -> dict[str, Any]:
        """Return the configuration that a training keeps; in older runs it is the journal's of that time."""
        if config := self.reader(left.results.config):
            return config
        first = next((i for i, e in enumerate(self.events) if e.get("training") == left.key), 0)
        known = [event["config"] for event in self.events[: first + 1] if "config" in event]
        return known[-1] if known else self.configured

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the stores say about simulator and prior."""
        for stream in STREAMS:
            try:
                text_ = (self.run.store(stream) / "store.json").read_text(encoding="utf-8")
                found: dict[str, Any] = json.loads(text_)["identity"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            return found
        return {}

    def _simulations(self) -> dict[str, str]:
        simulator = self.configured.get("simulator", {})
        values = {"simulator.name": simulator.get("name", "")}
        values |= flat({"simulator": {"arguments": simulator.get("arguments", {})}})
        version = self._identity.get("simulator", {}).get("version")
        values |= {"simulator.version": version, "seed": self.configured.get("seed")}
        shown = {key: text(value) for key, value in values.items() if value is not None}
        return shown | prior_parameters(self._identity)

    def _common(self, stands: RunStatus, own: Sequence[Event]) -> dict[str, str]:
        simulator = str(self.configured.get("simulator", {}).get("name", ""))
        tags = {"sbiflow.run": self.identity, "mlflow.source.name": "sbiflow"}
        tags["sbiflow.simulator"] = simulator.rpartition("/")[2]
        if stands.reason or sum(event.get("event") == "start" for event in own) > 1:
            tags["sbiflow.reason"] = stands.reason  # of an earlier end it is gone
        return tags

    def _tags(
        self, left: TrainingContents, stands: RunStatus, own: Sequence[Event]
    ) -> dict[str, str]:
        provenance = left.posterior.get("provenance", {})
        names = ("store_digest", "budget", "config_digest", "git_revision")
        tags = {f"sbiflow.{name}": str(provenance[name]) for name in names if provenance.get(name)}
        tags |= self._common(stands, own) | {"sbiflow.training": left.key}
        starts = [e for e in self._own("train", left.key) if e.get("event") == "start"]
        if job := next((e["job"] for e in reversed(starts) if e.get("job")), None):
            tags["sbiflow.job"] = str(job)
        if left.posterior:
            tags["sbiflow.weights"] = str(left.posterior.get("weights", {}).get("sha256"))
            tags["sbiflow.estimator"] = str(left.posterior.get("estimator"))
        if left.evaluated:
            tags["sbiflow.test_digest"] = left.evaluated["settings"]["test_digest"]
        return tags | self._said(left)

    def _said(self, left: TrainingContents) -> dict[str, str]:
        """Return in words what is known about a posterior."""
        found = verdicts(left.evaluated, left.facts)
        tags = {"sbiflow.verdict": "\n".join(found)} if found else {}
        if left.evaluated:
            tags["mlflow.note.content"] = _note(left.evaluated, found)
        return tags

    def _abc_data(self, key: str, done: Mapping[str, Any]) -> Iterator[Data]:
        """Yield the simulations that an ABC run has made."""
        if digest := done.get("digest"):
            place = str(self.run.store(f"abc-{key}").resolve())
            yield Data("abc simulations", str(digest), place)

    def _test(self, left: TrainingContents) -> Data | None:
        return next((one for one in self._data(left) if one.name.startswith("test")), None)

    def _data(self, left: TrainingContents) -> Iterator[Data]:
        """Yield the simulations behind a training."""
        digests = {
            "train": left.facts.get("store_digest"),
            "test": left.evaluated.get("settings", {}).get("test_digest"),
        }
        for stream, digest in digests.items():
            if digest:
                yield Data(f"{stream} simulations", digest, str(self.run.store(stream).resolve()))


def _when(stands: RunStatus) -> dict[str, Any]:
    return {"status": stands.status, "start": stands.start, "end": stands.end}


def _note(evaluated: Mapping[str, Any], found: Sequence[str]) -> str:
    lines = [
        f"- **{name}** {value:.4g}: {record.get('definition', '')}"
        for name, record in evaluated["metrics"].items()
        if (value := record.get("mean", record.get("max"))) is not None
    ]
    return "\n".join([*found, *([""] if found else []), *lines])


def _leaves(value: Any) -> Iterator[str | float]:
    """Yield the keys and values of nested mappings and lists."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, (str, int, float)):
        yield value


def text(value: Any) -> str:
    """Return a value of a configuration as MLflow shows it."""
    return value if isinstance(value, str) else json.dumps(value)
