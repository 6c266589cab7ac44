"""Submit and leave, on a real SLURM: chains, notices, cancelled jobs, lost nodes, neighbours."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Config, build, override, read
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.store import Store
from pipeline.submit.stage import cancel, states, submit
from pipeline.track.stage import sync
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
train: {{steps: 200, batch_size: 32, checkpoint_seconds: 0.5}}
evaluate: {{draws: 50, sampling_steps: 2, metrics: [rmse, sbc]}}
cluster: {{shared: true, notice: 20}}
"""
PIPELINE = (sys.executable, "-m", "pipeline")
PATIENCE = 240.0  # seconds; Ray alone needs a minute to start where the cores are busy
pytestmark = pytest.mark.timeout(900)
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


@dataclass(frozen=True)
class Case:
    """A configuration, its run directory, and the digest that a run without SLURM gives."""

    config: Path
    run: Path
    digest: str

    def settings(self, *words: str) -> Config:
        return build(override(read(self.config), words))

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

    def log(self) -> str:
        logs = sorted((self.run / "jobs").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in logs)

    def said(self) -> int:
        """Return how many simulations the jobs' latest line says are committed."""
        return int([0, *re.findall(r"simulate: (\d+)/120", self.log())][-1])


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A configuration and the digest of its simulations, run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "noisy.py").write_text(SIMULATOR)
    (folder / "small.yaml").write_text(CONFIG.format(folder=folder))
    words = ["-c", str(folder / "small.yaml"), "-o", str(folder / "run"), "--leases", "--json"]
    command = [*PIPELINE, "simulate", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "small.yaml", json.loads(done.stdout)["digest"]


@pytest.fixture
def case(slurm: Slurm, local: tuple[Path, str], tmp_path: Path) -> Case:
    return Case(local[0], tmp_path / "run", local[1])


def until(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_chain_goes_through_all_stages(slurm: Slurm, case: Case) -> None:
    jobs = case.submit()
    assert list(jobs) == ["simulate", "train", "evaluate"]
    for stage, number in jobs.items():
        assert slurm.wait(number, ENDED) == "COMPLETED", f"{stage}: {case.log()}"
    assert case.store_digest() == case.digest
    assert (case.run / "report.html").exists()


@pytest.mark.slow
def test_a_chain_on_two_nodes_outlives_its_shell_and_a_notice(slurm: Slurm, case: Case) -> None:
    words = f"submit {case.config} -o {case.run} --nodes 2 --cpus-per-task 1 --json"
    shell = subprocess.Popen(
        ["bash", "-c", f"{' '.join(PIPELINE)} {words}; sleep 1000"],
        env=os.environ | {"NAP": "0.1"}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    record = case.run / "jobs.json"
    until(lambda: record.exists() and len(json.loads(record.read_text())["jobs"]) == 3)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    jobs = {job["stage"]: job["id"] for job in json.loads(record.read_text())["jobs"]}
    assert list(jobs) == ["simulate", "train", "evaluate"]
    assert [job["live"] for job in case.status()["jobs"]] == [True] * 3

    slurm.wait(jobs["simulate"], {"RUNNING"})
    until(lambda: case.said() > 0)  # as soon as rows are there, the time is nearly up
    slurm.run("scancel", "--batch", "--signal=USR1", jobs["simulate"])
    until(lambda: slurm.field(jobs["simulate"], "Restarts") == "1")
    for stage, number in jobs.items():
        assert slurm.wait(number, ENDED) == "COMPLETED", f"{stage}: {case.log()}"
        assert slurm.field(number, "ExitCode") == "0:0"
    assert case.store_digest() == case.digest
    assert (case.run / "report.html").exists()
    assert "stopped by SIGUSR1" in case.log()
    assert simulated(case)["workers"] == 2  # one core on each of two nodes, which have two
    assert case.command("status").count("COMPLETED") == 3
    ended = slurm.run(
        "sacct", "--completion", f"--file={slurm.folder}/ended", "-nP", "-o", "jobid,state"
    )
    assert set(ended.split()) >= {f"{number}|COMPLETED" for number in jobs.values()}
    assert not list((case.run / "jobs").glob("nodes-*"))


def test_slurm_says_no_and_nothing_is_left(slurm: Slurm, case: Case) -> None:
    with pytest.raises(UsageError, match=r"simulate job .*invalid partition specified: nowhere"):
        submit(case.settings(), RunDirectory(case.run), options={"partition": "nowhere"})
    with pytest.raises(UsageError, match=r"train job .*invalid partition specified: nowhere"):
        submit(
            case.settings("cluster.stages.train.partition=nowhere"),
            RunDirectory(case.run),
            options={"hold": True},
        )
    assert not case.run.exists()
    assert not slurm.run("squeue", "-h", "--me")  # the first of the chain is gone as well


def test_a_run_is_queued_once(slurm: Slurm, case: Case) -> None:
    asked = {"hold": True, "comment": "two words", "nodelist": "n[1-2]", "nodes": 2}
    rows = submit(case.settings(), RunDirectory(case.run), "simulate", options=asked)["jobs"]
    shown = slurm.run("scontrol", "show", "job", rows[0]["id"])
    assert "Comment=two words" in shown
    assert "ReqNodeList=n[1-2]" in shown
    with pytest.raises(
        UsageError, match=rf"jobs in the queue: {rows[0]['id']} \(simulate, PENDING\)"
    ):
        submit(case.settings(), RunDirectory(case.run), options={"hold": True})
    (state,) = states(RunDirectory(case.run))
    assert (state["state"], state["reason"], state["live"]) == ("PENDING", "JobHeldUser", True)
    assert cancel(RunDirectory(case.run)) == [rows[0]["id"]]
    assert cancel(RunDirectory(case.run)) == []
    assert states(RunDirectory(case.run))[0]["state"] == "CANCELLED"


@pytest.mark.nightly
def test_a_time_limit_shorter_than_the_work_ends_in_the_same_digest(
    slurm: Slurm, case: Case
) -> None:
    number = case.submit("--stage=simulate", "--time=3", nap=1.6)["simulate"]
    assert slurm.wait(number, ENDED) == "COMPLETED", case.log()
    assert int(slurm.field(number, "Restarts")) >= 1
    assert "stopped by SIGUSR1" in case.log()
    assert case.store_digest() == case.digest


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled_and_the_next_continues(slurm: Slurm, case: Case) -> None:
    jobs = case.submit("--nodes=2", "--cpus-per-task=1", nap=0.5)
    until(lambda: case.said() > 0)
    assert set(case.command("cancel").split()) == set(jobs.values())
    for number in jobs.values():
        assert slurm.wait(number, ENDED) == "CANCELLED"
    until(lambda: not slurm.run("squeue", "-h", "--me"))
    again = case.submit("--stage=simulate")["simulate"]
    assert slurm.wait(again, ENDED) == "COMPLETED", case.log()
    assert slurm.field(jobs["simulate"], "Restarts") == "0"
    assert case.store_digest() == case.digest
    assert 0 < simulated(case)["simulated"] < 120  # what was finished was not run again


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_lost_node_does_not_lose_the_job(slurm: Slurm, case: Case, which: str) -> None:
    words = ("--stage=simulate", "--nodes=2", "--cpus-per-task=1")
    number = case.submit(*words, nap=0.5)["simulate"]
    until(lambda: case.said() > 0)
    nodes = nodes_of(slurm, number)
    lost = nodes[0 if which == "first" else -1]  # the one with Ray's head, or the other
    slurm.lose(lost)
    until(lambda: slurm.field(number, "Restarts") == "1")
    assert slurm.wait(number, ENDED) == "COMPLETED", case.log()
    assert lost not in nodes_of(slurm, number)
    assert case.store_digest() == case.digest
    assert 0 < simulated(case)["simulated"] < 120  # what was finished was not run again


@pytest.mark.slow
def test_two_jobs_share_two_nodes_and_each_uses_its_cores(
    slurm: Slurm, case: Case, tmp_path: Path
) -> None:
    other = Case(case.config, tmp_path / "other", case.digest)
    words = ("--stage=simulate", "--nodes=2", "--nodelist=n1,n2", "--cpus-per-task=1")
    jobs = {each: each.submit(*words, nap=0.3)["simulate"] for each in (case, other)}
    until(lambda: all(each.said() > 0 for each in jobs))
    assert {slurm.state(number) for number in jobs.values()} == {"RUNNING"}
    for each, number in jobs.items():
        assert slurm.wait(number, ENDED) == "COMPLETED", each.log()
        assert each.store_digest() == each.digest
        assert simulated(each)["workers"] == 2  # of the four cores
        assert "error" not in each.log()  # of SLURM, about nodes that stayed


@pytest.mark.slow
def test_an_urgent_job_takes_the_nodes_and_gives_them_back(slurm: Slurm, case: Case) -> None:
    number = case.submit("--stage=simulate", "--nodes=3", "--exclusive", nap=1.0)["simulate"]
    until(lambda: case.said() > 0)
    urgent = slurm.run("sbatch", "--parsable", "-p", "urgent", "-N", "3", "--exclusive", "-o", "/dev/null",
                       "--wrap", "sleep 5")  # fmt: skip
    slurm.wait(urgent, {"COMPLETED"})
    assert slurm.wait(number, ENDED) == "COMPLETED", case.log()
    assert int(slurm.field(number, "Restarts")) == 1
    assert case.store_digest() == case.digest


@pytest.mark.slow
def test_training_goes_on_exactly_after_a_notice(slurm: Slurm, case: Case) -> None:
    words = ("train.steps=20000", "train.batch_size=32")  # ten seconds and more
    case.submit("--stage=simulate", *words)
    simulated = json.loads((case.run / "jobs.json").read_text())["jobs"][0]["id"]
    assert slurm.wait(simulated, ENDED) == "COMPLETED"
    twin = Case(case.config, case.run.parent / "twin", case.digest)
    shutil.copytree(case.run, twin.run)
    (twin.run / "jobs.json").unlink()

    number = case.submit("--stage=train", *words)["train"]
    until(lambda: "steps" in case.log())
    slurm.run("scancel", "--batch", "--signal=USR1", number)
    twin.command("train")
    assert slurm.wait(number, ENDED) == "COMPLETED", case.log()
    assert int(slurm.field(number, "Restarts")) == 1
    assert "train stopped by SIGUSR1" in case.log()
    weights = [next(each.run.glob("trainings/*/posterior/weights.pt")) for each in (case, twin)]
    ours, theirs = (torch.load(path, weights_only=True) for path in weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_mlflow_is_filled_from_outside_while_the_jobs_run(
    slurm: Slurm, case: Case, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    jobs = case.submit(nap=0.2)
    until(lambda: case.said() > 0)
    first = sync(RunDirectory(case.run), uri, "cluster")
    assert slurm.state(jobs["simulate"]) == "RUNNING"
    assert slurm.wait(jobs["evaluate"], ENDED) == "COMPLETED", case.log()
    last = sync(RunDirectory(case.run), uri, "cluster")
    assert first.created + last.created >= 1
    assert last.points > 0
    again = sync(RunDirectory(case.run), uri, "cluster")
    assert (again.created, again.points, again.artefacts) == (0, 0, 0)


@pytest.mark.slow
def test_a_failed_start_of_ray_is_a_failed_job_and_ends_the_chain(slurm: Slurm, case: Case) -> None:
    broken = case.config.parent / "broken.sh"
    broken.write_text(
        f'#!/bin/bash\n[ "$2" = cluster.node ] && exit 7\nexec {sys.executable} "$@"\n'
    )
    broken.chmod(0o755)
    jobs = case.submit("--nodes=2", f"cluster.python={broken}")
    assert slurm.wait(jobs["simulate"], ENDED) == "FAILED"
    assert slurm.field(jobs["simulate"], "ExitCode") == "1:0"
    assert slurm.wait(jobs["train"], ENDED) == slurm.wait(jobs["evaluate"], ENDED) == "CANCELLED"
    assert "Ray did not start on the other nodes of this job (exit code 7)" in case.log()


def nodes_of(slurm: Slurm, number: str) -> list[str]:
    return slurm.run("scontrol", "show", "hostnames", slurm.field(number, "NodeList")).split()


def simulated(case: Case) -> dict[str, Any]:
    """Return what the journal says about the last simulations of the training stream."""
    events = [json.loads(line) for line in (case.run / "journal.jsonl").read_text().splitlines()]
    return [e for e in events if e.get("event") == "simulated" and e["stream"] == "train"][-1]
