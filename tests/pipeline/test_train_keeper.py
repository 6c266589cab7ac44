"""When the keeper looks at a training, and what it then says; time is that of a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from pipeline.training import keeper as module
from pipeline.training.keeper import LOOK_SECONDS, MOST_STEPS, Keeper


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def train(monkeypatch, tmp_path, seconds, walltime=None, stop_at=float("inf"), steps=10**6):
    """Train with steps of so many seconds; return when training stopped, the reason, and the looks."""
    clock, loop = Clock(), SimpleNamespace(step=0, finished=False, curves=[])
    monkeypatch.setattr(module, "time", clock)
    keeper = Keeper(
        tmp_path,
        layout="memory",
        every=1e9,
        walltime=walltime,
        stopping=lambda: "SIGTERM" if clock.now - Clock.now >= stop_at else "",
        emit=lambda event: None,
    )
    looks = []
    while loop.step < steps:
        _, stop, stride = keeper.look(loop)
        looks.append(loop.step)
        if stop:
            break
        loop.step += stride
        clock.now += stride * seconds
    return clock.now - Clock.now, keeper.reason, looks


@pytest.mark.parametrize("walltime", [0.05, 0.5, 1.234, 30.0])
@pytest.mark.parametrize("seconds", [1e-4, 3e-3, 0.7])
def test_the_end_of_the_walltime_is_seen_within_a_step_or_two(
    monkeypatch, tmp_path, seconds, walltime
):
    stopped, reason, _ = train(monkeypatch, tmp_path, seconds, walltime)
    assert walltime - 1e-9 <= stopped <= walltime + 2 * seconds
    assert reason == f"train.walltime={walltime:g}"


def test_a_request_to_stop_is_seen_within_a_look(monkeypatch, tmp_path):
    stopped, reason, _ = train(monkeypatch, tmp_path, 3e-3, walltime=60, stop_at=2.0)
    assert 2.0 <= stopped <= 2.0 + LOOK_SECONDS
    assert reason == "SIGTERM"


def test_looks_are_rare_where_steps_are_quick(monkeypatch, tmp_path):
    _, _, looks = train(monkeypatch, tmp_path, 1e-5, steps=50_000)
    assert len(looks) < 60
    assert max(b - a for a, b in pairwise(looks)) <= MOST_STEPS
