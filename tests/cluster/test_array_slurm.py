"""A job array on a real SLURM: tasks that share a run through leases, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, build, read
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import schema_of
from pipeline.store import Spool, Store, Writer
from pipeline.submit.stage import states, submit
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
test: 0
simulate: {{workers: 1, leases: 40, term: 5}}
cluster: {{shared: true, notice: 20, layout: array}}
"""
CHAIN = ("test=10", "estimator={name: cmpe, arguments: {width: 32, depth: 1}}", "train.steps=50",
         "train.batch_size=32", "evaluate={draws: 50, sampling_steps: 2, metrics: [rmse]}")  # fmt: skip
PIPELINE = (sys.executable, "-m", "pipeline")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(SIMULATOR)
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "small.yaml"


def settings(config: Path) -> Config:
    return build(read(config))


def expected(config: Config, folder: Path) -> str:
    """Return the digest of the rows computed here, one after the other."""
    simulation = spec_of(config, "train")
    rows = [simulation.run(np.array([number])) for number in range(config.budget)]
    store = Store.create(folder, identity(simulation), schema_of(rows[0], frozenset()))
    with Writer(store) as writer, Spool(writer.spool_directory, "a", store.schema, 1000) as spool:
        for row in rows:
            spool.append(row)
    return store.digest(config.budget)


ARRAY = ("--array", "0-2", "--cpus-per-task", "1")


def queue(config: Path, run: Path, nap: float, *words: str, stage: str = "simulate") -> str:
    """Submit and return the first job's id."""
    command = [*PIPELINE, "submit", str(config), "-o", str(run), "--stage", stage, *words]
    done = subprocess.run(
        [*command, "--json"],
        env=os.environ | {"NAP": str(nap)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["jobs"][0]["id"])


def live(run: Path) -> bool:
    return any(job["live"] for job in states(RunDirectory(run)))


def until(true: Callable[[], bool], patience: float = 300) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def done(run: Path) -> int:
    path = run / "store/train"
    return Store.open(path).counts()["done"] if (path / "store.json").exists() else 0


def log(run: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((run / "jobs").glob("*.log")))


def tasks(slurm: Slurm, number: str) -> list[list[str]]:
    """Return id and node of the tasks that run."""
    told = slurm.run("squeue", "-h", "-r", "-t", "RUNNING", "-j", number, "-o", "%i %N")
    return [line.split() for line in told.splitlines()]


def check_complete(config: Path, run: Path, folder: Path) -> None:
    store = Store.open(run / "store/train")
    assert store.counts(120)["missing"] == 0, log(run)
    assert store.digest(120) == expected(settings(config), folder / "expected")
    assert not any((store.path / "leases").iterdir())


@pytest.mark.slow
def test_a_task_goes_on_after_a_notice(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = queue(config, run, 0.5, *ARRAY)
    until(lambda: done(run) >= 6)
    assert len(tasks(slurm, number)) == 3
    slurm.run("scancel", "--batch", "--signal=USR1", tasks(slurm, number)[0][0])
    until(lambda: "stopped by SIGUSR1" in log(run))
    until(lambda: not live(run))
    check_complete(config, run, tmp_path)
    assert [job["state"] for job in states(RunDirectory(run))] == ["COMPLETED"], log(run)


@pytest.mark.slow
def test_both_layouts_give_the_same_digest(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    array, ray = tmp_path / "array", tmp_path / "ray"
    queue(config, array, 0.1, *ARRAY)
    queue(
        config,
        ray,
        0.1,
        "cluster.layout=ray",
        "simulate.workers=2",
        "--nodes=2",
        "--cpus-per-task=1",
    )
    until(lambda: not live(array) and not live(ray))
    check_complete(config, array, tmp_path)
    assert [job["state"] for job in states(RunDirectory(ray))] == ["COMPLETED"], log(ray)
    digests = {Store.open(run / "store/train").digest(120) for run in (array, ray)}
    assert len(digests) == 1


def test_the_others_do_the_work_of_a_lost_node(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = queue(config, run, 0.25, *ARRAY)
    until(lambda: done(run) >= 6)
    nodes = {node for _, node in tasks(slurm, number)}
    assert len(nodes) > 1
    slurm.lose(nodes.pop())
    until(lambda: not live(run))
    check_complete(config, run, tmp_path)


@pytest.mark.slow
def test_a_task_that_cannot_be_launched_does_not_end_the_chain(
    slurm: Slurm, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with slurm.ill("n1"):
        number = queue(config, run, 0.3, *ARRAY, "--exclusive", *CHAIN, stage="all")
        until(lambda: "launch failed requeued held" in slurm.run("squeue", "-h", "-r", "-o", "%r"))
        until(lambda: done(run) >= 6)
    assert len(tasks(slurm, number)) == 2
    until(lambda: not live(run))
    assert [job["state"] for job in states(RunDirectory(run))] == ["COMPLETED"] * 3, log(run)
    check_complete(config, run, tmp_path)
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_without_all_simulations_the_chain_ends(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    number = queue(config, run, 0.5, *ARRAY, *CHAIN, stage="all")
    until(lambda: done(run) >= 6)
    slurm.run("scancel", number)
    until(lambda: not live(run))
    assert [job["state"] for job in states(RunDirectory(run))] == [
        "CANCELLED",
        "FAILED",
        "CANCELLED",
    ]
    assert "of 120 train simulations are missing" in log(run)


def evaluated(config: Path) -> Config:
    """Return the configuration with test simulations, without which there is nothing to evaluate."""
    return settings(config).model_copy(update={"test": 10})


def test_an_array_says_how_many_tasks_and_ray_has_none(tmp_path: Path, config: Path) -> None:
    with pytest.raises(UsageError, match=r"needs to know how many tasks"):
        submit(evaluated(config), RunDirectory(tmp_path / "run"), dry=True)
    cluster = evaluated(config).cluster.model_copy(update={"layout": "ray"})
    ray = evaluated(config).model_copy(update={"cluster": cluster})
    with pytest.raises(UsageError, match=r"--array=0-3 needs --layout=array"):
        submit(ray, RunDirectory(tmp_path / "run"), options={"array": "0-3"}, dry=True)


def test_only_the_simulations_are_an_array(tmp_path: Path, config: Path) -> None:
    jobs = submit(
        evaluated(config),
        RunDirectory(tmp_path / "run"),
        options={"array": "0-3", "nodes": 4},
        dry=True,
    )["jobs"]
    texts = {job["stage"]: job["text"] for job in jobs}
    assert ["--array=0-3" in text for text in texts.values()] == [True, False, False]
    assert "--leases" in texts["simulate"]
    assert "flock" not in texts["simulate"]  # the tasks hold the run together
    assert "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" in texts["simulate"]
    assert all("--nodes=1" in text for text in texts.values())
