"""The documented dask-jobqueue text, run as it stands but for the sizes, on the real SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import Rows, Schema, Spool, Store, Writer, to_numpy
from tests.cluster.slurm import Slurm

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
SMALLER = {
    "cores=4": "cores=1",
    "processes=4": "processes=1",
    'memory="16GB"': 'memory="1GB"',
    'interface="ib0"': 'interface="lo"',
    "jobs=10": "jobs=2",
}
AFTER = """
    hosts = {name for name in Client.current().scheduler_info()["workers"]}
    assert hosts, "no worker came"
    import numpy
    numpy.savez("found.npz", **found["x"])
"""


@pytest.mark.timeout(900)
def test_the_documented_text_computes_on_jobs_of_slurm(slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="NO DASK-JOBQUEUE HERE: pip install dask-jobqueue")
    store = _store(tmp_path / "store")
    code = PAGE.read_text().partition("dask-jobqueue")[2].partition("```python\n")[2]
    code = code.partition("```")[0].rstrip("\n") + AFTER
    for before, now in {**SMALLER, "/shared/me/runs/mine/store/train": str(store.path)}.items():
        assert before in code
        code = code.replace(before, now)
    (tmp_path / "text.py").write_text(f"{code}\n")
    root = str(PAGE.parents[1])
    done = subprocess.run(
        [sys.executable, "text.py"], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, x = np.load(tmp_path / "found.npz"), to_numpy(store)[2]["x"]
    np.testing.assert_allclose(found["mean"], x.mean(axis=0))
    np.testing.assert_allclose(found["sd"], x.std(axis=0))
    jobs = slurm.run("squeue", "-h", "--states=all", "--format=%j").split()
    assert jobs.count("dask-worker") >= 1


def _store(path: Path, shards: int = 6, rows: int = 500) -> Store:
    store = Store.create(path, {"names": ["a"]}, Schema({"x": ("<f8", (3,))}))
    rng = np.random.default_rng(0)
    with Writer(store) as writer, Spool(writer.spool_directory, "a", store.schema, rows) as spool:
        for ids in np.split(np.arange(shards * rows), shards):
            spool.append(Rows(ids, rng.normal(size=(rows, 1)), {"x": rng.normal(size=(rows, 3))}, {},
                              np.zeros(rows, np.uint8), np.zeros(rows, np.float32)))  # fmt: skip
    return store
