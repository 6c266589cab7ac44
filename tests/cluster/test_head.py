"""Ray that does not come up is started again, but not for ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.head import TRIES, again

LOSES_ITS_FIRST = """
import os, signal, sys, threading, time
from pathlib import Path
import cluster
from cluster.allocation import Grant, inside
from cluster.host import children

def lose_the_first_raylet():
    while True:
        for path in Path("/proc/self/task").glob("*/children"):
            for pid in path.read_text().split():
                if Path("/proc", pid, "comm").read_text() == "raylet\\n":
                    os.kill(int(pid), signal.SIGKILL)
                    return
        time.sleep(0.01)

threading.Thread(target=lose_the_first_raylet, daemon=True).start()
with {start} as ray_cluster:
    import ray
    assert (ray_cluster.cpus, ray_cluster.nodes) == (1, 1), ray_cluster
    assert ray_cluster.alive()
    names = [Path("/proc", str(pid), "comm").read_text().strip() for pid in children()]
    assert names.count("gcs_server") == 1, names  # the first try's is gone
    print(ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cluster.connect('local', cpus=1)", "inside(Grant(1), 1)"])
def test_a_ray_that_does_not_come_up_is_started_once_more(start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSES_ITS_FIRST.format(start=start)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr
    assert done.stderr.count("trying again") >= 1


def test_tries_are_few_and_the_last_error_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    errors = iter(["first", "second", "third", "fourth"])

    def start() -> None:
        raise ConnectionError(next(errors))

    with pytest.raises(ConnectionError, match=r"^third$"):
        again(start)
    assert TRIES == 3
    assert capsys.readouterr().err.count("trying again") == 2
    assert again(lambda: 7) == 7


def test_what_ray_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    errors = iter(["\x1b]0;title\x07", "second", "third"])

    def start() -> None:
        raise ConnectionError(next(errors))

    with pytest.raises(ConnectionError):
        again(start)
    said = capsys.readouterr().err
    assert r"trying again: \x1b]0;title\x07" in said
    assert "\x1b" not in said
