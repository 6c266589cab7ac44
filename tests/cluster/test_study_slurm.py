"""A study as a job array on a real SLURM: tasks that share simulations and cases."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.run import RunDirectory
from pipeline.store import Store
from pipeline.submit.stage import states
from tests.cluster.slurm import Slurm

STUDY = """
base:
  name: small
  simulator: {name: gaussian_linear, arguments: {dim: 2}}
  budget: 64
  test: 10
  train: {steps: 30, batch_size: 16, validation: 0.1}
  evaluate: {draws: 30, metrics: [nrmse], sampling_steps: 1}
  cluster: {shared: true, notice: 20}
axes:
  estimator:
    consistency: {name: cmpe, arguments: {width: 16, depth: 1}}
    flow_matching: {name: fmpe, arguments: {width: 16, depth: 1}}
  budget: [64, 96]
"""
PIPELINE = (sys.executable, "-m", "pipeline")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tasks_of_an_array_share_a_study(slurm: Slurm, tmp_path: Path) -> None:
    source, folder = tmp_path / "study.yaml", tmp_path / "out"
    source.write_text(STUDY)
    words = ["--array", "0-1", "--cpus-per-task", "1", "--json"]
    done = subprocess.run(
        [*PIPELINE, "submit", str(source), "-o", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [job["stage"] for job in json.loads(done.stdout)["jobs"]] == ["study"]
    deadline = time.monotonic() + 600
    while any(one["live"] for one in states(RunDirectory(folder))):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    log = "\n".join(path.read_text() for path in sorted((folder / "jobs").glob("*.log")))
    assert (folder / "study.json").exists(), log
    result = json.loads((folder / "study.json").read_text())
    assert [case["state"] for case in result["cases"]] == ["complete"] * 4, log
    (store,) = (Store.open(path) for path in folder.glob("simulations/*/store/train"))
    assert store.counts(96) == store.counts() | {"missing": 0}
    begun = sum(path.read_text().count('"event": "trained"') for path in _journals(folder))
    assert begun == 4  # no case twice


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("cases/*/journal.jsonl"))
