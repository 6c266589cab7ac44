"""Several Ray nodes on this machine, by Ray's own cluster utilities: one lost, one with other code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.store import Store

SIMULATOR = """
import os, time
import numpy as np
from simulators import Normal, simulator


@simulator(prior={"a": Normal(0, 1)})
def noisy(a, rng):
    time.sleep(float(os.environ.get("NAP", "0")))
    with open(os.path.join(os.path.dirname(__file__), "nodes"), "a") as file:
        file.write(os.environ["NODE"] + chr(10))
    return {"x": a + rng.normal(size=2)}
"""
CONFIG = "{{name: small, simulator: '{folder}/noisy.py:noisy', budget: 60, test: 0}}\n"
NODES = """
import json, sys
from pathlib import Path
from cluster.head import OBJECT_STORE
from cluster.host import LOOPBACK, bound_to, folder
from ray.cluster_utils import Cluster

Path("/tmp/ray").mkdir(exist_ok=True)  # where `Cluster` notes its address, wherever its nodes keep theirs
with bound_to(LOOPBACK), folder() as place:
    common = dict(node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE, temp_dir=str(place))
    nodes = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **common))
    others = {
        variables["NODE"]: nodes.add_node(num_cpus=1, env_vars=variables, **common)
        for variables in map(json.loads, sys.argv[1:])
    }
    print(nodes.address, flush=True)
    for name in map(str.strip, sys.stdin):
        nodes.remove_node(others[name], allow_graceful=False)
        print(name, flush=True)
    nodes.shutdown()
"""
ROOT = Path(__file__).parents[2]
SIMULATE = (sys.executable, "-m", "pipeline", "simulate")
HERE = {"PYTHONPATH": str(ROOT)}
AS_ITS_HEAD = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def nodes(*variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start Ray nodes of one core with these variables; yield the process that keeps them, and the address."""
    words = [json.dumps(each) for each in variables]
    keeper = subprocess.Popen(
        [sys.executable, "-c", NODES, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert keeper.stdout is not None
        yield keeper, keeper.stdout.readline().strip()
    finally:
        keeper.communicate(timeout=60)


def driver(folder: Path, address: str) -> subprocess.Popen[str]:
    words = ["cluster.backend=existing", f"cluster.address={address}", "simulate.workers=2"]
    return subprocess.Popen(
        [*SIMULATE, "-c", f"{folder}/small.yaml", "-o", f"{folder}/run", *words], cwd=folder,
        env=os.environ | AS_ITS_HEAD | HERE | {"NODE": "driver"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(SIMULATOR)
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path


def local_digest(folder: Path) -> str:
    done = subprocess.run(
        [*SIMULATE, "-c", f"{folder}/small.yaml", "-o", f"{folder}/local", "simulate.workers=1", "--json"],
        env=os.environ | {"NODE": "here"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


def worked(folder: Path) -> list[str]:
    path = folder / "nodes"
    return path.read_text().split() if path.exists() else []


def test_two_nodes_share_the_work_and_one_is_lost(folder: Path) -> None:
    variables = [HERE | {"NODE": name, "NAP": "0.5"} for name in "abc"]
    with nodes(*variables) as (keeper, address):
        run = driver(folder, address)
        deadline = time.monotonic() + 300
        while len(set(worked(folder))) < 2:
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.2)
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        lost, before = worked(folder)[0], len(worked(folder))
        keeper.stdin.write(f"{lost}\n")
        keeper.stdin.flush()
        assert keeper.stdout.readline() == f"{lost}\n"
        assert run.poll() is None
        said, _ = run.communicate(timeout=300)
        assert run.returncode == 0, said
    assert before < 60
    assert set(worked(folder)) == {"a", "b", "c"}  # the third took the lost one's place
    assert len(worked(folder)) <= 60 + 2  # at most what the lost one had in flight was run again
    assert Store.open(folder / "run/store/train").digest(60) == local_digest(folder)


def test_a_node_with_other_code_is_refused(folder: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(ROOT / "simulators", stale / "simulators")
    with open(stale / "simulators" / "__init__.py", "a", encoding="utf-8") as file:
        file.write("\n# of last year\n")
    old = {"NODE": "b", "PYTHONPATH": f"{stale}:{ROOT}"}
    slow = HERE | {"NODE": "a", "NAP": "5"}  # cannot do all the work before the other comes
    with nodes(slow, old) as (_, address):
        said, _ = (run := driver(folder, address)).communicate(timeout=300)
    assert run.returncode == 1, said
    assert f"simulators/__init__.py in {stale}/simulators on " in said
    assert "b" not in worked(folder)
