"""The journal survives kills and concurrent writers."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from evaluation.journal import Journal


def test_events_come_back_in_order_with_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    assert journal.read() == []
    for i in range(5):
        journal.append({"stage": "train", "step": i, "loss": np.float32(0.5), "ids": np.arange(2)})
    events = journal.read()
    assert [event["step"] for event in events] == list(range(5))
    assert events[0]["loss"] == 0.5
    assert events[0]["ids"] == [0, 1]
    assert events[0]["time"] <= events[-1]["time"]


def test_any_cut_of_the_last_line_loses_only_that_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"step": 0})
    whole = journal.path.read_bytes()
    journal.append({"step": 1, "text": "ü\n"})
    both = journal.path.read_bytes()
    for cut in range(len(whole), len(both) - 1):
        journal.path.write_bytes(both[:cut])
        assert [event["step"] for event in journal.read()] == [0]
        journal.append({"step": 2})
        assert [event["step"] for event in journal.read()] == [0, 2]


def test_what_json_cannot_say_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(TypeError, match="set"):
        journal.append({"bad": {1, 2}})
    assert not journal.path.exists()


def _write(path: Path, writer: int) -> None:
    journal = Journal(path)
    for i in range(200):
        journal.append({"writer": writer, "i": i, "padding": "x" * 500})


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path, w)) for w in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    events = Journal(path).read()
    assert len(events) == 400
    for w in range(2):
        assert [e["i"] for e in events if e["writer"] == w] == list(range(200))
