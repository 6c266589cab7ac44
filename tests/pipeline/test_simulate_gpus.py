"""Workers with shares of GPUs: Ray is told of one that is not there, which is enough to count and to hand out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.connection import RayCluster
from pipeline.errors import UsageError
from pipeline.simulate.calls import environment
from pipeline.simulate.setup import worker_count

SCRIPT = """
import json, os, sys
import ray
from pathlib import Path
from pipeline.config import build
from pipeline.run import RunDirectory
from pipeline.simulate.stage import simulate
from pipeline.stop import Stop
from pipeline.store import Store, to_numpy

folder = sys.argv[1]
ray.init(num_cpus=4, num_gpus=1, log_to_driver=False)
config = build({
    "name": "gpus", "simulator": f"{folder}/model.py:model", "budget": 20,
    "simulate": {"gpus": 0.5, "cpus": 1},
})
result = simulate(config, RunDirectory(Path(folder, "run")), stop=Stop())
_, _, x, _ = to_numpy(Store.open(Path(folder, "run/store/train")), 20)
print(json.dumps({"workers": result.workers, "device": sorted(set(x["device"].tolist()))}))
"""
MODEL = """
import os
from simulators import Uniform, simulator

@simulator(prior={"u": Uniform(0, 1)})
def model(u, rng):
    return {"device": int(os.environ.get("CUDA_VISIBLE_DEVICES") or -1), "u": u}
"""


def test_room_counts_gpus() -> None:
    cluster = RayCluster(cpus=8, memory=8e9, nodes=1, alive=lambda: True, gpus=2)
    assert cluster.capacity(1, None, 0.5) == 4
    settings = SimpleNamespace(cpus=1.0, memory=None, gpus=1.0, workers=3)
    with pytest.raises(UsageError, match=r"simulate.gpus=1 each do not fit.*2 GPUs on 1 node"):
        worker_count(settings, cluster, 100)
    without = RayCluster(cpus=8, memory=8e9, nodes=1, alive=lambda: True)
    with pytest.raises(UsageError, match=r"room for 0"):
        worker_count(SimpleNamespace(**{**vars(settings), "workers": None}), without, 100)


def test_workers_without_gpus_see_none() -> None:
    assert environment(1)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in environment(1, 0.5)


@pytest.mark.slow
def test_two_workers_share_one_gpu(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    variables = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"workers": 2, "device": [0]}
