"""The journal survives kills and concurrent writers."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
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


# --- the chain ---------------------------------------------------------------------------------


def old_line(event: dict[str, object]) -> bytes:
    """Return a line as versions without chains wrote it."""
    return json.dumps(event).encode() + b"\n"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.jsonl")
    for i in range(4):
        journal.append({"step": i, "text": f"line {i}"})
    return journal


def steps(journal: Journal) -> list[object]:
    return [event["step"] for event in journal.read() if "step" in event]


def test_any_changed_byte_is_noticed_and_costs_at_most_the_lines_it_touches(
    journal: Journal,
) -> None:
    whole = journal.path.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(whole) if byte == 10)]
    for place in range(len(whole) - 1):  # the last end may be cut
        damaged = bytearray(whole)
        damaged[place] ^= 1
        journal.path.write_bytes(damaged)
        content = journal.content()
        assert content.damage, place
        touched = {sum(start <= at for start in starts) - 1 for at in (place, place + 1)}
        assert set(range(4)) - touched <= {event["step"] for event in content.events}
        assert all(event["text"] == f"line {event['step']}" for event in content.events)


@pytest.mark.parametrize("order", [(0, 2, 3), (1, 2, 3), (0, 2, 1, 3), (0, 1, 1, 2, 3), (3,)])
def test_lines_that_are_removed_moved_or_doubled_are_noticed(
    journal: Journal, order: tuple[int, ...]
) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[i] for i in order))
    assert any("missing" in one for one in journal.content().damage)
    assert steps(journal) == list(dict.fromkeys(order))


def test_lines_that_are_missing_at_the_end_are_noticed_by_who_noted_the_end(
    journal: Journal,
) -> None:
    noted = journal.content().end
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.append({"step": 4})
    assert Journal(journal.path, noted).content().damage == []
    journal.path.write_bytes(b"".join(lines[:3]))
    assert Journal(journal.path, noted).content().damage == ["lines at its end are missing"]
    journal.path.unlink()
    assert Journal(journal.path, noted).content().damage == ["lines at its end are missing"]


def test_a_repair_keeps_sound_lines_the_identity_and_the_damaged_file(journal: Journal) -> None:
    identity, whole = journal.content().identity, journal.path.read_bytes()
    assert journal.mend() is None
    for number in (0, 2):  # also where the first line, which names the run, is lost
        damaged = whole.replace(f"line {number}".encode(), b"line x")
        journal.path.write_bytes(damaged)
        aside, damage = journal.mend() or pytest.fail("nothing was mended")
        assert aside.read_bytes() == damaged
        assert damage == [f"line {number + 1} was changed"]
        content = journal.content()
        assert (content.damage, content.identity) == ([], identity)
        assert steps(journal) == [i for i in range(4) if i != number]
        assert content.events[-1]["event"] == "journal repaired"
        assert content.events[-1]["damage"] == damage
    assert sorted(path.name for path in journal.path.parent.iterdir()) == [
        "journal.damaged-1.jsonl",
        "journal.damaged-2.jsonl",
        "journal.jsonl",
    ]


def test_a_journal_of_an_earlier_version_goes_on_and_is_guarded_from_then(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = [{"time": "2026-01-01T00:00:00+00:00", "step": i} for i in range(3)]
    path.write_bytes(b"".join(map(old_line, events)) + b'\n{"cut')
    journal = Journal(path)
    text = json.dumps(events[0], sort_keys=True).encode()
    identity = hashlib.sha256(text).hexdigest()[:16]  # as that version called the run
    assert (journal.read(), journal.content().identity) == (events, identity)
    journal.append({"step": 3})
    journal.append({"step": 4})
    content = journal.content()
    assert (steps(journal), content.damage, content.identity) == ([0, 1, 2, 3, 4], [], identity)
    path.write_bytes(path.read_bytes().replace(b'"step": 1', b'"step": 7'))
    assert journal.content().damage == ["lines before line 5 were changed or are missing"]
    journal.mend()
    assert (journal.content().damage, journal.content().identity) == ([], identity)


def test_a_writer_waits_for_a_repair_and_writes_into_the_new_file(journal: Journal) -> None:
    journal.path.write_bytes(journal.path.read_bytes().replace(b"line 1", b"line x"))
    with journal._locked():
        writer = threading.Thread(target=journal.append, args=({"step": 4},))
        writer.start()
        fresh = journal.path.with_name("fresh")
        fresh.write_bytes(journal.path.read_bytes())
        fresh.rename(journal.path)
    writer.join(timeout=60)
    assert steps(journal) == [0, 2, 3, 4]


def test_a_line_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for i in range(3):
        journal.append({"step": i, "text": "x" * 100_000})
    assert (steps(journal), journal.content().damage) == ([0, 1, 2], [])
