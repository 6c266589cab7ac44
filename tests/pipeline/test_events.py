"""A run's journal is looked after: damage is said by readers and mended by the next stage."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.journal import Content, Journal
from pipeline import config as configuration
from pipeline import events
from pipeline.errors import DamagedError, PipelineError
from pipeline.results import latest_training
from pipeline.run import RunDirectory
from pipeline.show import status_values
from pipeline.stages import begin
from pipeline.track.history import History


def test_the_next_stage_mends_a_damaged_journal_aloud(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished.run
    identity = History(run, tmp_path).identity
    whole = run.journal.read_bytes()
    first, *others = whole.splitlines(keepends=True)
    run.journal.write_bytes(first.replace(b'"budget": 300', b'"budget": 900') + b"".join(others))
    status_values(finished.config, run)
    status_values(finished.config, run)
    assert capsys.readouterr().err.count("line 1 was changed") == 1
    begin(finished.config, run, "train")
    assert "line 1 was changed" in capsys.readouterr().err
    assert (run.path / "journal.damaged-1.jsonl").exists()
    assert Journal(run.journal).content().damage == []
    assert History(run, tmp_path).identity == identity
    begin(finished.config, run, "train")
    assert capsys.readouterr().err == ""


def test_a_journal_that_lost_its_end_is_noticed(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(finished.config, finished.run, "train")
    lines = finished.run.journal.read_bytes().splitlines(keepends=True)
    finished.run.journal.write_bytes(b"".join(lines[:2]))
    events.mend(finished.run)
    assert "lines at its end are missing" in capsys.readouterr().err
    events.mend(finished.run)
    assert capsys.readouterr().err == ""


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The journals that are read from here on, one entry for each reading."""
    found, whole = [], Journal.content

    def content(journal: Journal) -> Content:
        found.append(journal.path)
        return whole(journal)

    monkeypatch.setattr(Journal, "content", content)
    return found


def test_a_journal_is_read_again_only_where_it_has_changed(
    finished: Any, tmp_path: Path, readings: list[Path]
) -> None:
    run = finished.run
    hour_ago = time.time_ns() - 3600 * 10**9
    os.utime(run.journal, ns=(hour_ago, hour_ago))
    configuration.kept(run)
    assert readings == [run.journal]
    latest_training(run)
    events.mend(run)
    configuration.load(run)
    first = events.read(run).events
    assert readings == [run.journal]
    events.recorder(run, "train")({"event": "x"})
    assert [event["event"] for event in events.read(run).events] == [
        *(event["event"] for event in first),
        "x",
    ]
    content = run.journal.read_bytes()
    run.journal.write_bytes(content.replace(b'"budget": 300', b'"budget": 900'))  # of equal size
    assert events.read(run).damage


def test_a_run_that_is_deleted_under_a_stage_is_noticed_and_not_made_again(finished: Any) -> None:
    log = begin(finished.config, finished.run, "train")
    shutil.rmtree(finished.run.path)
    with pytest.raises(PipelineError, match="is gone"):
        log({"event": "x"})
    assert not finished.run.path.exists()


@pytest.mark.parametrize("key", ["../../elsewhere", "/tmp/x", "..", "", "a/b", "a\n", "a\x1b[2J"])
def test_a_training_lies_in_the_run_directory(tmp_path: Path, key: str) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(DamagedError, match="is no training of"):
        run.training(key)
    run.path.mkdir()
    run.config.write_text("name: x\n")
    events.recorder(run, "train")({"training": key})
    with pytest.raises(DamagedError, match="is no training of"):
        list(History(run, tmp_path).records())
