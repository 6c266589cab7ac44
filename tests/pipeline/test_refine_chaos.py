"""A refinement that is killed at random times gives the digests, shares and draws of an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos_refine import compare


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kills", "simulations"),
    [
        pytest.param(3, 90, marks=pytest.mark.slow, id="few"),
        pytest.param(20, 600, marks=pytest.mark.nightly, id="many"),
    ],
)
def test_kills_at_random_times_change_nothing(tmp_path: Path, kills: int, simulations: int) -> None:
    result = compare(tmp_path, kills, simulations, seed=1)
    print(result)
    assert result["kills"] == kills
    assert result["equal"] == dict.fromkeys(("digests", "shares", "rows", "draws"), True)
