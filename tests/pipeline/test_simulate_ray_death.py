"""Ray is killed: under a driver at work, which leaves within seconds; and while it starts, which it does again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from benchmarks.chaos_simulate import Chaos, descendants, kill, name_of
from cluster.guard import DIED
from pipeline.errors import PipelineError

SOON = 25.0  # seconds on a busy machine; it takes about 2 to 5, Ray itself would wait for 60


def until(ready: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone_after(driver: subprocess.Popen[bytes], ready: Callable[[], bool]) -> float:
    """Kill all of Ray once it is ready and return how long the driver then lived."""
    until(ready, driver)
    kill(descendants(driver.pid))
    struck = time.monotonic()
    try:
        assert driver.wait(SOON) == PipelineError.exit_code
    finally:
        driver.kill()
    return time.monotonic() - struck


@pytest.mark.slow
def test_a_driver_at_work_notices_that_ray_is_dead(tmp_path):
    chaos = Chaos(tmp_path / "run", workers=2, budget=100_000)
    driver = chaos.start()
    gone_after(driver, lambda: chaos.done() > 20)
    calls, done = chaos.calls(), chaos.done()
    assert done <= calls <= done + 2  # all but the simulations in flight
    assert DIED in (tmp_path / "run" / "driver.log").read_text()


@pytest.mark.slow
def test_ray_that_dies_while_it_starts_is_started_again(tmp_path):
    chaos = Chaos(tmp_path / "run", workers=1, budget=20)
    driver = chaos.start()
    until(lambda: any("raylet" in name_of(p) for p in descendants(driver.pid)), driver)
    kill(descendants(driver.pid))
    try:
        assert driver.wait(240) == 0
    finally:
        driver.kill()
    assert chaos.calls() == chaos.done() == 20
    assert "trying again" in (tmp_path / "run" / "driver.log").read_text()


HANGING = """
import time
from cluster.guard import guard

with guard(lambda: False):
    time.sleep(60)  # as a call to Ray may
"""


def test_a_process_that_hangs_in_a_call_to_a_dead_ray_is_ended():
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == PipelineError.exit_code
    assert DIED in done.stderr
