"""Submit and leave, on a real SLURM: chains, notices, cancelled jobs, lost nodes, neighbours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store
from tests.cluster.slurm import Slurm

SIMULATOR = """
import os, time
import numpy as np
from simulators import Normal, simulator


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)})
def noisy(a, b, rng):
    time.sleep(float(os.environ.get("NAP", "0")))
    return {"x": np.array([a, b]) + 0.5 * rng.normal(size=2)}
"""
CONFIG = """
name: small
simulator: {folder}/noisy.py:noisy
budget: 120
test: 10
estimator: {{name: cmpe, arguments: {{width: 32, depth: 1}}}}
train: {{steps: 200, checkpoint_seconds: 0.5}}
evaluate: {{draws: 50, passes: 2, metrics: [rmse, sbc]}}
cluster: {{shared: true, notice: 20}}
"""
PIPELINE = (sys.executable, "-m", "pipeline")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


@dataclass(frozen=True)
class Case:
    """A configuration, its run directory, and the digest that a run without SLURM gives."""

    config: Path
    run: Path
    digest: str

    def submit(self, *words: str, nap: float = 0.0) -> dict[str, str]:
        """Submit and return the job ids by stage."""
        done = subprocess.run(
            [*PIPELINE, "submit", str(self.config), "-o", str(self.run), "--json", *words],
            env=os.environ | {"NAP": str(nap)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return {job["stage"]: job["id"] for job in json.loads(done.stdout)["jobs"]}

    def command(self, name: str, *words: str) -> str:
        done = subprocess.run(
            [*PIPELINE, name, "-o", str(self.run), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.command("status", "--json"))
        return values

    def store_digest(self) -> str:
        return Store.open(self.run / "store" / "train").digest(120)

    def done(self) -> int:
        """Return the rows that are durable by now, those not yet in a shard included."""
        return sum(path.stat().st_size > 0 for path in (self.run / "store").rglob("*.spool"))

    def log(self) -> str:
        logs = sorted((self.run / "jobs").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in logs)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A configuration and the digest of its simulations, run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "noisy.py").write_text(SIMULATOR)
    (folder / "small.yaml").write_text(CONFIG.format(folder=folder))
    command = [
        *PIPELINE,
        "simulate",
        "-c",
        str(folder / "small.yaml"),
        "-o",
        str(folder / "run"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "small.yaml", json.loads(done.stdout)["digest"]


@pytest.fixture
def case(slurm: Slurm, local: tuple[Path, str], tmp_path: Path) -> Case:
    return Case(local[0], tmp_path / "run", local[1])


def until(true: Callable[[], bool], patience: float = 90) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_chain_on_two_nodes_outlives_its_shell_and_a_notice(slurm: Slurm, case: Case) -> None:
    words = f"submit {case.config} -o {case.run} --nodes 2 --cpus-per-task 1 --json"
    shell = subprocess.Popen(
        ["bash", "-c", f"{' '.join(PIPELINE)} {words}; sleep 1000"],
        env=os.environ | {"NAP": "0.1"}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    record = case.run / "jobs.json"
    until(record.exists)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    jobs = {job["stage"]: job["id"] for job in json.loads(record.read_text())["jobs"]}
    assert list(jobs) == ["simulate", "train", "evaluate"]
    assert [job["live"] for job in case.status()["jobs"]] == [True] * 3

    slurm.wait(jobs["simulate"], {"RUNNING"})
    until(lambda: "simulations" in case.log())  # as soon as rows are there, the time is nearly up
    slurm.run("scancel", "--batch", "--signal=USR1", jobs["simulate"])
    until(lambda: slurm.field(jobs["simulate"], "Restarts") == "1")
    for stage, number in jobs.items():
        assert slurm.wait(number, ENDED) == "COMPLETED", f"{stage}: {case.log()}"
        assert slurm.field(number, "ExitCode") == "0:0"
    assert case.store_digest() == case.digest
    assert (case.run / "report.html").exists()
    assert "stopped by SIGUSR1" in case.log()
    assert [job["state"] for job in case.status()["jobs"]] == ["COMPLETED"] * 3
    ended = slurm.run(
        "sacct", "--completion", f"--file={slurm.folder}/ended", "-nP", "-o", "jobid,state"
    )
    assert set(ended.split()) >= {f"{number}|COMPLETED" for number in jobs.values()}
    assert not list((case.run / "jobs").glob("nodes-*"))
