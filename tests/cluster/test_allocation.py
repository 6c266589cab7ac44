"""The nodes of a job meet, agree, and make one Ray; or say which one is to blame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.allocation import AGENTS, FOLDER, HEAD, Grant, NodeCard, inside, versions
from cluster.head import OBJECT_STORE

AGENT = (sys.executable, "-m", "cluster.node", "slurm")
DRIVER = """
import os, time
import cluster.allocation, ray

def where():
    time.sleep(2)
    return ray.get_runtime_context().get_node_id()

with cluster.allocation.inside(cluster.allocation.Grant(1, 1 << 30), 2) as ray_cluster:
    assert ray_cluster.alive()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert (ray_cluster.cpus, ray_cluster.nodes) == (2, 2), ray_cluster
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    assert addresses == {"127.0.0.1"}, addresses
    assert ray_cluster.capacity(1, 5e8) == 2, ray_cluster  # a gigabyte each, less the object store
    task = ray.remote(num_cpus=1)(where)
    print(len(set(ray.get([task.remote() for _ in range(2)]))))
"""


def agents(place: Path, count: int) -> list[subprocess.Popen[str]]:
    granted = {"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "1024"}
    return [
        subprocess.Popen(
            [*AGENT, str(place)], env=os.environ | granted, stderr=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]


def test_two_nodes_make_one_ray_and_leave_nothing(tmp_path: Path) -> None:
    others = agents(tmp_path, 1)
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], env=os.environ | {FOLDER: str(tmp_path)},
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == "2\n"
        for other in others:
            assert other.wait(30) == 0, other.stderr.read() if other.stderr else ""
    finally:
        for other in others:
            other.kill()
            other.wait()
    pids = [str(other.pid) for other in others]
    assert not [pid for pid in pids if (Path("/tmp") / f"sbiflow-{os.getuid()}" / pid).exists()]
    assert not (tmp_path / HEAD).exists()


def test_a_node_with_another_ray_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    NodeCard("there", Grant(1), versions() | {"ray": "2.9.3"}).write(tmp_path)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"ray 2\.9\.3 on there, \d"), inside(Grant(1), 2):
        pass
    assert time.monotonic() - started < 10


def test_agents_that_ended_are_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / AGENTS).write_text("137\n")
    with pytest.raises(ConnectionError, match=r"other nodes .*exit code 137"), inside(Grant(1), 2):
        pass


def test_several_nodes_need_a_place_to_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(ConnectionError, match="sbiflow submit"), inside(Grant(1), 2):
        pass
    monkeypatch.setenv(FOLDER, str(tmp_path / "absent"))
    with pytest.raises(ConnectionError, match="all nodes share"), inside(Grant(1), 2):
        pass


def test_an_agent_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    (agent,) = agents(tmp_path / "elsewhere", 1)
    _, said = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert "file system that all nodes share" in said


def test_a_job_that_is_over_needs_no_agent(tmp_path: Path) -> None:
    place = tmp_path / "nodes"
    place.mkdir()
    (agent,) = agents(place, 1)
    deadline = time.monotonic() + 60
    while not (cards := list(place.glob("*.card"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert NodeCard.read(cards[0]).grant == Grant(1, 1 << 30)
    assert cards[0].stat().st_mode & 0o077 == 0
    cards[0].unlink()
    place.rmdir()
    assert agent.wait(30) == 0


def test_ray_is_told_what_was_granted_less_its_own_store() -> None:
    assert Grant(3, 1 << 30, 2).options() == {
        "num_cpus": 3, "memory": (1 << 30) - OBJECT_STORE, "num_gpus": 2,
    }  # fmt: skip
    assert Grant(1).options()["memory"] is None
    assert json.dumps(Grant(1).options())
