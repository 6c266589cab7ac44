"""When the checkpointer checks a training, and what it decides; time is that of a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from pipeline.train import checkpointer as module
from pipeline.train.checkpointer import CHECK_SECONDS, MAX_STEPS, Checkpointer


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def train(monkeypatch, tmp_path, seconds, walltime=None, stop_at=float("inf"), steps=10**6):
    """Train with steps of so many seconds; return when training stopped, the reason, and the checks."""
    clock, loop = Clock(), SimpleNamespace(step=0, finished=False, curves=[], pace=dict)
    monkeypatch.setattr(module, "time", clock)
    checkpointer = Checkpointer(
        tmp_path,
        layout="memory",
        every=1e9,
        walltime=walltime,
        stopping=lambda: "SIGTERM" if clock.now - Clock.now >= stop_at else "",
        emit=lambda event: None,
    )
    checks = []
    while loop.step < steps:
        _, stop, stride = checkpointer.check(loop)
        checks.append(loop.step)
        if stop:
            break
        loop.step += stride
        clock.now += stride * seconds
    return clock.now - Clock.now, checkpointer.reason, checks


@pytest.mark.parametrize("walltime", [0.05, 0.5, 1.234, 30.0])
@pytest.mark.parametrize("seconds", [1e-4, 3e-3, 0.7])
def test_the_end_of_the_walltime_is_seen_within_a_step_or_two(
    monkeypatch, tmp_path, seconds, walltime
):
    stopped, reason, _ = train(monkeypatch, tmp_path, seconds, walltime)
    assert walltime - 1e-9 <= stopped <= walltime + 2 * seconds
    assert reason == f"train.walltime={walltime:g}"


def test_a_request_to_stop_is_seen_within_a_check(monkeypatch, tmp_path):
    stopped, reason, _ = train(monkeypatch, tmp_path, 3e-3, walltime=60, stop_at=2.0)
    assert 2.0 <= stopped <= 2.0 + CHECK_SECONDS
    assert reason == "SIGTERM"


def test_checks_are_rare_where_steps_are_quick(monkeypatch, tmp_path):
    _, _, checks = train(monkeypatch, tmp_path, 1e-5, steps=50_000)
    assert len(checks) < 60
    assert max(b - a for a, b in pairwise(checks)) <= MAX_STEPS
