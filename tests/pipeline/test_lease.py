"""Leases: one holder at a time, and expiry by the clock of the file system."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.config.schema import SimulateConfig
from pipeline.simulate.leases.lease import LeaseHolder, LeaseLost, LeaseTable


def test_a_name_has_one_holder(tmp_path: Path) -> None:
    with LeaseHolder(tmp_path, 60, "one") as one, LeaseHolder(tmp_path, 60, "two") as two:
        assert one.take("7")
        assert not one.take("7")
        assert not two.take("7")
        assert not list(two.expired([("7", 0)]))
        one.done("7")
        assert two.read() == ({}, {"7"})
        assert not two.take("7")


def test_of_many_who_want_a_name_at_once_one_gets_it(tmp_path: Path) -> None:
    won: list[str] = []
    gate = threading.Barrier(16)

    def grab(name: str) -> None:
        with LeaseHolder(tmp_path, 60, name) as holder:
            gate.wait()
            won.extend(lease for lease in map(str, range(50)) if holder.take(lease))
            gate.wait()

    threads = [threading.Thread(target=grab, args=(f"p{k}",)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, won)) == list(range(50))


def test_a_lease_lives_as_long_as_its_card_is_touched(tmp_path: Path) -> None:
    with LeaseHolder(tmp_path, 2.0, "alive") as alive:
        alive.take("0")
        time.sleep(2.5)
        assert not list(LeaseTable(tmp_path, 2.0).expired([("0", 0)]))
        assert LeaseTable(tmp_path, 2.0).living() == ["alive"]


@pytest.mark.parametrize("skew", [-60.0, 60.0])
def test_no_local_clock_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    with LeaseHolder(tmp_path, 9.0, "one") as one:
        one.take("0")
        assert not list(LeaseTable(tmp_path, 9.0).expired([("0", 0)]))
        _die(one, age=9.1)
        assert list(LeaseTable(tmp_path, 9.0).expired([("0", 0)])) == [("0", "one")]


def test_a_minute_of_skew_in_the_cards_is_borne_by_the_default_term(tmp_path: Path) -> None:
    term = SimulateConfig().term
    with LeaseHolder(tmp_path, term, "one") as one:
        one.take("0")
        for age in (-60.0, 60.0):
            _die(one, age)  # alive, on a node whose clock stamps its files and is wrong
            assert not list(LeaseTable(tmp_path, term).expired([("0", 0)]))


def test_a_takeover_is_won_once_and_not_undone(tmp_path: Path) -> None:
    with LeaseHolder(tmp_path, 5.0, "dead") as dead, LeaseHolder(tmp_path, 5.0, "a") as a:
        dead.take("3")
        _die(dead, age=9.0)
        with LeaseHolder(tmp_path, 5.0, "b") as b:
            (found,) = b.expired([("3", 0)])
            assert found == ("3", "dead")
            assert a.take("3", 1)
            assert not b.take("3", 1)  # though b saw it expired as well
            assert not list(b.expired([("3", 1)]))


def test_leaving_frees_what_is_not_done_at_once(tmp_path: Path) -> None:
    with LeaseHolder(tmp_path, 3600.0, "one") as one:
        one.take("0")
        one.take("1")
        one.done("1")
    lease_table = LeaseTable(tmp_path, 3600.0)
    assert list(lease_table.expired([("0", 0)])) == [("0", "one")]
    assert lease_table.read() == ({"0": 0}, {"1"})


def test_a_process_that_lost_its_folder_learns_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with LeaseHolder(tmp_path, 1.0, "one", home) as one:
        one.check()
        home.rename(tmp_path / "taken")
        time.sleep(1.5)
        with pytest.raises(LeaseLost, match=r"silent for more than 1 s"):
            one.check()


def test_a_damaged_card_names_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.card").write_bytes(b"../\x00\xff\xfe/..")
    (name,) = LeaseTable(tmp_path, 60.0).living()
    assert (tmp_path / name).parent == tmp_path
    assert not (tmp_path / name).exists()


def test_where_the_folder_is_gone_nothing_is_expired_and_nobody_lives(tmp_path: Path) -> None:
    lease_table = LeaseTable(tmp_path / "gone", 1.0)
    assert lease_table.read() == ({}, set())
    assert not list(lease_table.expired([("000000", 0), ("finish", 0)]))
    assert lease_table.living() == []
    with (
        pytest.raises(LeaseLost, match="budget is complete"),
        LeaseHolder(lease_table.folder, 1.0, "late"),
    ):
        pass


def _die(holder: LeaseHolder, age: float) -> None:
    """Stop touching a card, and make it as old as given."""
    holder._ended.set()
    holder._thread.join()
    now = holder._now()
    os.utime(holder.heartbeat, (now - age, now - age))
