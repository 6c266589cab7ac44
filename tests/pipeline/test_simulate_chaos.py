"""The short form of `make chaos`: kills at random times change nothing."""

from __future__ import annotations

import pytest

from benchmarks.chaos_simulate import compare


@pytest.mark.chaos
def test_kills_at_random_times_change_nothing(tmp_path):
    result = compare(tmp_path, workers=[2], kills=2, budget=60, seed=1, log=print)
    (run,) = result["runs"]
    assert sum(run["kills"].values()) == 2
    assert result["equal_digests"]
    assert result["each_id_once"]
    assert run["repeated"] <= run["in_flight"]
    assert run["most_lost_by_a_process"] <= 1
    assert run["driver_gone_s"] < 30  # Ray itself would wait for a minute
