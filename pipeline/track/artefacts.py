"""The files of MLflow runs: what is sound of a run directory, each with its folder in MLflow."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import text
from pipeline.report.contents import TrainingContents
from pipeline.report.pictures import posterior_pictures
from pipeline.results import (
    ABC_DRAWS,
    CONFIG,
    CURVES,
    DESCRIPTION,
    DONE,
    METRICS,
    WEIGHTS,
)
from pipeline.run import STREAMS, RunDirectory
from pipeline.store import Store
from pipeline.tolerant_reader import TolerantReader

MOST_FAILURES = 1000  # rows of the table
File = tuple[Path, str]


def of_run(run: RunDirectory, folder: Path) -> Iterator[File]:
    """Yield the report, the journal, the environment, and the table of failed simulations."""
    found = (run.report, run.journal, run.config, run.environment)
    yield from ((path, "") for path in found if path.exists())
    if (table := _failures(run, folder)) is not None:
        yield table, ""


def of_training(
    left: TrainingContents, config: Mapping[str, Any], reader: TolerantReader, folder: Path
) -> Iterator[File]:
    """Yield the configuration, losses, posterior, evaluation and pictures of a training."""
    key, place = left.key, left.results.folder
    kept = reader(left.results.config) is not None
    made = place / CONFIG if kept else _file(folder / key, CONFIG, text(dict(config)))
    yield made, ""
    named = {
        "evaluation": [METRICS] if left.evaluated else [],
        "training": [CURVES] if left.curves else [],
        "posterior": [DESCRIPTION, WEIGHTS] if left.posterior else [],
    }
    for under, names in named.items():
        yield from ((place / name, under) for name in names)
    if left.evaluated:
        for name, (image, _) in posterior_pictures(left.results, reader).items():
            yield _file(folder / key, f"{name}.svg", image), "plots"


def of_evaluation(left: TrainingContents) -> Iterator[File]:
    """Yield the metrics of an evaluation."""
    if left.evaluated:
        yield left.results.folder / METRICS, ""


def of_abc(run: RunDirectory, key: str) -> Iterator[File]:
    """Yield the draws, the history of pyABC and the result of an ABC run."""
    found = (run.abc(key) / name for name in (DONE, ABC_DRAWS, "abc.db", "observation.npz"))
    yield from ((path, "") for path in found if path.exists())


def _failures(run: RunDirectory, folder: Path) -> Path | None:
    """Write the simulations that are not ok as a table; None where there are none."""
    rows = []
    for stream in STREAMS:
        if not (run.store(stream) / "store.json").exists():
            continue
        store = Store.open(run.store(stream))
        for row in store.failures()[:MOST_FAILURES]:
            theta = dict(zip(store.names, row.theta.tolist(), strict=True))
            told = {"stream": stream, "id": row.id, "outcome": row.outcome.name.lower()}
            rows.append({**told, **theta, "seconds": row.seconds, "reason": row.message})
    if not rows:
        return None
    path = folder / "failures.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _file(folder: Path, name: str, content: str) -> Path:
    """Write a file to upload."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name
