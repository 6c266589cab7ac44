"""What of Ray may die: its dashboard and monitors may, under which simulations go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOSES = """
import os, signal, sys, time, cluster, ray
from ray._private import worker

with cluster.connect("local", cpus=1) as rays:
    processes = worker._global_node.all_processes
    for name in sys.argv[1:]:
        for info in processes[name]:
            os.kill(info.process.pid, signal.SIGKILL)
    time.sleep(6)  # the guard looks twice a second
    assert rays.alive()
    print(ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.slow
def test_without_its_dashboard_and_monitors_ray_is_not_dead() -> None:
    lost = ["dashboard", "log_monitor", "monitor"]
    done = subprocess.run(
        [sys.executable, "-c", LOSES, *lost], capture_output=True, text=True, timeout=280, check=False
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr
