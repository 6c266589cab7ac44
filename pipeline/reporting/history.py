"""The past of a run, as MLflow should tell it: a record for each training.

The journal says what happened and when; what is missing there is taken from the files that a training
left. Before the first training there is one record that holds the simulations.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluation.journal import Journal
from evaluation.tracking import Point, Record
from pipeline.config import flat, read
from pipeline.evaluate import numbers
from pipeline.reporting.pictures import posterior_pictures
from pipeline.run import Run

SIMULATIONS = "simulations"  # key of the record before the first training
Event = dict[str, Any]


@dataclass(frozen=True)
class History:
    """The run's past: its journal and what the trainings left. `folder` takes files to upload."""

    run: Run
    folder: Path

    @cached_property
    def events(self) -> list[Event]:
        return Journal(self.run.journal).read()

    @cached_property
    def identity(self) -> str:
        """A name of this run, the same wherever its directory lies: a hash of its first event."""
        first = self.events[0] if self.events else read(self.run.config)
        return hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def trainings(self) -> list[str]:
        """Keys of all trainings, the oldest first."""
        folders = self.run.path.glob("trainings/*/")
        told = [str(event["training"]) for event in self.events if "training" in event]
        untold = [f.name for f in folders if _json(f / "curves.json") is not None]
        return list(dict.fromkeys([*told, *sorted(untold)]))

    def records(self) -> Iterator[Record]:
        """Return one record for each training, or one for the simulations before the first."""
        for key in self.trainings or [SIMULATIONS]:
            yield self._record(key)

    def _record(self, key: str) -> Record:
        config = self._config(key)
        done = _json(self.run.training(key) / "done.json")
        evaluated = _json(self.run.training(key) / "evaluation" / "metrics.json")
        times = [_milliseconds(event) for event in self.events] or [0]
        return Record(
            key=f"{self.identity}/{key}",
            name=f"{config.get('name', self.run.path.name)} {key}",
            parameters={name: _text(value) for name, value in flat(config).items()},
            tags=self._tags(key, done, evaluated),
            points=[
                *self._evaluated(key, evaluated),
                *self._trained(key),
                *self._simulated(key),
            ],
            artefacts=list(self._artefacts(key)),
            data=list(self._data(done, evaluated)),
            start=times[0],
            end=times[-1] if done else None,
        )

    # --- events of a training --------------------------------------------------------------------

    def _first(self, key: str) -> int:
        """Return where in the journal a training begins; its end where it never did."""
        told = (i for i, event in enumerate(self.events) if event.get("training") == key)
        return next(told, len(self.events))

    def _config(self, key: str) -> dict[str, Any]:
        """Return the configuration with which the training began, from the journal."""
        before = self.events[: self._first(key)]
        known = [event["config"] for event in before if "config" in event]
        config: dict[str, Any] = known[-1] if known else read(self.run.config)
        return config

    def _simulated(self, key: str) -> Iterator[Point]:
        for event in self.events[: self._first(key)]:
            if event.get("stage") != "simulate" or "stream" not in event:
                continue
            prefix = f"simulate/{event['stream']}"
            counts = event.get("counts", {})
            step = int(counts.get("done", event.get("done", 0)))
            values = {name: event.get(name) for name in ("rate", "seconds", "busy")} | counts
            yield from _points(prefix, values, step, _milliseconds(event))

    def _trained(self, key: str) -> Iterator[Point]:
        told = [e for e in self.events if e.get("training") == key and "step" in e]
        kept = _json(self.run.training(key) / "curves.json") or []
        steps: dict[int, Event] = {int(row["step"]): row for row in [*told, *kept]}
        start = _milliseconds(told[0]) - _after(told[0]) if told else 0
        for step, row in sorted(steps.items()):
            values = {k: row.get(k) for k in ("train", "validation", "learning_rate")}
            yield from _points("train/loss", values, step, start + _after(row))

    def _evaluated(self, key: str, result: dict[str, Any] | None) -> Iterator[Point]:
        if result is None:
            return
        told = [
            e for e in self.events if e.get("training") == key and e.get("event") == "evaluated"
        ]
        time = _milliseconds(told[-1]) if told else 0
        yield from _points("evaluate", {"seconds": result["seconds"]}, 0, time)
        for one in [{"metrics": result["metrics"]}, *result["sweep"]]:
            passes = {m.get("passes") for m in one["metrics"].values()} - {None}
            step = int(max(passes, default=0))
            yield from _points("", numbers(one["metrics"]), step, time)

    # --- what lies beside ------------------------------------------------------------------------

    def _tags(
        self, key: str, done: dict[str, Any] | None, evaluated: dict[str, Any] | None
    ) -> dict[str, str]:
        posterior = _json(self.run.training(key) / "posterior" / "posterior.json") or {}
        provenance = posterior.get("provenance", {})
        names = ("store_digest", "budget", "config_digest", "git_revision")
        tags = {f"sbiflow.{name}": str(provenance[name]) for name in names if provenance.get(name)}
        tags["sbiflow.training"] = key
        tags["sbiflow.run"] = self.identity
        tags["mlflow.source.name"] = "sbiflow"
        if posterior:
            tags["sbiflow.weights"] = str(posterior.get("weights", {}).get("sha256"))
        if evaluated:
            settings = evaluated["settings"]
            tags["sbiflow.test_digest"] = settings["test_digest"]
            tags["mlflow.note.content"] = _note(evaluated)
        return tags

    def _data(
        self, done: dict[str, Any] | None, evaluated: dict[str, Any] | None
    ) -> Iterator[tuple[str, str, str]]:
        """Yield name, digest and place of the simulations behind a training."""
        digests = {
            "train": (done or {}).get("store_digest"),
            "test": (evaluated or {}).get("settings", {}).get("test_digest"),
        }
        for stream, digest in digests.items():
            if digest:
                yield f"{stream} simulations", digest, str(self.run.store(stream).resolve())

    def _artefacts(self, key: str) -> Iterator[tuple[Path, str]]:
        training = self.run.training(key)
        files = {
            "": [self.run.config, self.run.report, self.run.journal],
            "evaluation": [training / "evaluation" / "metrics.json"],
            "training": [training / "curves.json"],
            "posterior": [training / "posterior" / n for n in ("posterior.json", "weights.pt")],
        }
        for folder, paths in files.items():
            yield from ((path, folder) for path in paths if path.exists())
        if (training / "evaluation" / "metrics.json").exists():
            for name, (image, _) in posterior_pictures(self.run, key).items():
                path = self.folder / key / f"{name}.svg"
                path.parent.mkdir(exist_ok=True)
                path.write_text(image, encoding="utf-8")
                yield path, "plots"


def _points(prefix: str, values: Mapping[str, Any], step: int, time: int) -> Iterator[Point]:
    for name, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            full = f"{prefix}/{name}" if prefix else name
            yield Point(full, float(value), step, time)


def _note(evaluated: Mapping[str, Any]) -> str:
    lines = [
        f"- **{name}** {value:.4g}: {record.get('definition', '')}"
        for name, record in evaluated["metrics"].items()
        if (value := record.get("mean", record.get("max"))) is not None
    ]
    return "\n".join(lines)


def _milliseconds(event: Event) -> int:
    return int(datetime.fromisoformat(event["time"]).timestamp() * 1000)


def _after(row: Event) -> int:
    return int(1000 * row.get("seconds", 0))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
