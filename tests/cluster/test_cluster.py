"""Backends by name, a local Ray that leaves nothing behind, and the comparison of a worker's code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cluster
from cluster.connection import RayCluster
from cluster.preflight import CodeFingerprint, differences, fingerprint


def test_backends_are_listed_in_order():
    names = ["existing", "kubernetes", "local", "lsf", "pbs", "slurm"]
    assert cluster.available() == list(cluster.BACKENDS) == names
    assert cluster.systems() == ["kubernetes", "lsf", "pbs", "slurm"]


def test_an_unknown_backend_is_named_with_a_close_match():
    with pytest.raises(LookupError, match=r"'locl'; did you mean 'local'"):
        cluster.connect("locl")


def test_an_address_belongs_to_the_existing_backend():
    with pytest.raises(ValueError, match="no meaning"), cluster.connect("local", "127.0.0.1:1"):
        pass
    with pytest.raises(ValueError, match="address is missing"), cluster.connect("existing"):
        pass


def test_an_address_where_nothing_answers_fails_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(ConnectionError, match=f"no Ray answers at {address}"),
            cluster.connect("existing", address),
        ):
            pass
    with pytest.raises(ValueError, match="host:port"), cluster.connect("existing", "ray://a:1"):
        pass


def test_room_is_what_cores_and_memory_allow():
    ray_cluster = RayCluster(cpus=4, memory=8e9, nodes=1, alive=lambda: True)
    assert ray_cluster.capacity(1, None) == 4
    assert ray_cluster.capacity(0.5, None) == 8
    assert ray_cluster.capacity(1, 3e9) == 2
    assert ray_cluster.capacity(8, None) == 0


DRIVER = """
import signal, time, cluster, ray
handler = lambda *_: None
signal.signal(signal.SIGTERM, handler)
with cluster.connect("local", cpus=1) as ray_cluster:
    assert signal.getsignal(signal.SIGTERM) is handler
    with cluster.connect("local") as same:
        assert same.cpus == ray_cluster.cpus == 1 and same.alive()
    assert ray_cluster.alive()
    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    print("ready", flush=True)
    time.sleep(120)
"""


def daemons(pid: int) -> list[str]:
    """Return the command lines of everything that uses the Ray folder of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"/{pid}/session_" in line:
            found.append(line.replace("\0", " "))
    return found


@pytest.mark.chaos
def test_nothing_outlives_a_killed_driver():
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout.readline() == "ready\n"
        assert daemons(driver.pid)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    deadline = time.monotonic() + 20
    while daemons(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert daemons(driver.pid) == []


EXISTING = """
import sys
import ray, cluster
with cluster.connect("existing", sys.argv[1]) as ray_cluster:
    assert ray_cluster.cpus == 1 and ray_cluster.nodes == 1 and ray_cluster.alive(), ray_cluster
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""
HEAD = """
import sys, time, cluster, ray
with cluster.connect("local", cpus=1):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@pytest.mark.chaos
def test_a_running_ray_is_used_by_its_address():
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        address = head.stdout.readline().strip()
        guest = [sys.executable, "-c", EXISTING, address]
        alike = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}  # as its head
        done = subprocess.run(
            guest, capture_output=True, text=True, timeout=120, check=False, env=os.environ | alike
        )
        assert done.stdout == "42\n", done.stderr
    finally:
        head.communicate(timeout=60)
    assert head.returncode == 0
    assert daemons(head.pid) == []


def test_a_process_is_like_itself():
    driver = fingerprint(["cluster", "simulators", "no_such_package"], ["numpy", "ray"])
    worker = fingerprint(["cluster", "simulators"], ["numpy", "ray"], loaded=True)
    assert driver.folders["cluster"] == str(Path(cluster.__file__).parent)
    assert "cluster/local.py" in driver.sources
    assert "cluster/preflight.py" in worker.sources
    assert set(worker.sources) < set(driver.sources)
    assert differences(driver, worker) == []


def test_differences_name_node_place_digests_and_versions():
    file, ours = "simulators/prior.py", {"simulators": "/a/simulators"}
    driver = CodeFingerprint(
        "here", ours, {file: "1" * 64, "simulators/slcp.py": "3" * 64}, {"numpy": "2.4"}
    )
    theirs = {"simulators": "/b/simulators"}
    worker = CodeFingerprint("there", theirs, {file: "2" * 64}, {"numpy": "2.3"})
    code, version = differences(driver, worker)
    assert code.startswith("simulators/prior.py in /b/simulators on there is 222222222222")
    assert "in /a/simulators of the driver on here 111111111111" in code
    assert version == "numpy on there is 2.3, the driver's is 2.4"
    foreign = CodeFingerprint("there", theirs, {"simulators/other.py": "2" * 64}, {"numpy": "2.4"})
    assert "absent" in differences(driver, foreign)[0]


CHANGED = """
import sys
sys.path.insert(0, sys.argv[1])
import stranger
from cluster.preflight import fingerprint
print(fingerprint(["stranger"], [], loaded=True).sources["stranger/__init__.py"])
"""


def test_a_changed_file_has_another_digest(tmp_path):
    (tmp_path / "stranger").mkdir()
    digests = set()
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "stranger" / "__init__.py").write_text(text)
        command = [sys.executable, "-c", CHANGED, str(tmp_path)]
        digests.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 2
