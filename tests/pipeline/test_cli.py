"""The command line as a user meets it: real processes, real stages, small budgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import config as configuration

MODEL = """
import time
from simulators import LogUniform, Uniform, simulator

@simulator(prior={"mu": Uniform(-3, 3), "sigma": LogUniform(0.1, 2)})
def normal(mu, sigma, rng):
    return {"x": rng.normal(mu, sigma, 10)}

@simulator(prior={"mu": Uniform(-3, 3)})
def slow(mu, rng):
    time.sleep(0.2)
    return rng.normal(mu, 1.0, 3)

@simulator(prior={"mu": Uniform(0, 1)})
def fragile(mu, rng):
    if mu < 0.2:
        raise RuntimeError("too small")
    return rng.normal(mu, 1.0, 3)

@simulator(prior={"mu": Uniform(0, 1)})
def shapeless(mu, rng):
    return rng.normal(mu, 1.0, rng.integers(1, 5))
"""
SMALL = {
    "name": "small",
    "simulator": "model.py:normal",
    "budget": 400,
    "test": 10,
    "simulate": {"workers": 1},
    "train": {"steps": 60, "batch_size": 32, "validate_every": 30},
    "evaluate": {"draws": 100, "sampling_steps": 2},
    "track": {"live": False},  # tests/pipeline/test_track.py tries it
}


def sbiflow(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "model.py").write_text(MODEL)
    (folder / "small.yaml").write_text(configuration.text(SMALL))
    return folder


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    """Return a run that went through all stages."""
    sbiflow("run", project / "small.yaml", "-o", project / "run")
    return project / "run"


def shard_bytes(run: Path) -> dict[Path, bytes]:
    folder = run / "store" / "train" / "shards"
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_ends_with_figures_report_and_ui_and_a_repeat_redoes_nothing(
    finished: Path,
) -> None:
    made = [file for folder in ("store", "trainings") for file in (finished / folder).rglob("*")]
    before = {f: f.stat().st_mtime_ns for f in made if f.is_file() and f.name != "lock"}
    done = sbiflow("run", "-o", finished)  # a run knows its configuration
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert str(finished / "report.html") in done.stdout
    assert f" ui -o {finished}" in done.stdout
    assert "rmse" in done.stdout
    assert (finished / "report.html").stat().st_size > 10_000
    assert (finished / "mlflow.db").exists()


def test_status_counts_and_names_the_digest(finished: Path) -> None:
    values = json.loads(sbiflow("status", "-o", finished, "--json").stdout)
    assert (values["budget"], values["done"], values["missing"], values["failed"]) == (
        400,
        400,
        0,
        0,
    )
    assert len(values["digest"]) >= 32
    assert values["streams"]["test"]["done"] == 10


def test_a_budget_grows_and_shrinks_without_redoing(finished: Path, project: Path) -> None:
    before = shard_bytes(finished)
    half = json.loads(sbiflow("status", "-o", finished, "--json").stdout)["digest"]
    sbiflow("simulate", "-o", finished, "budget=600", "--leases")
    after = shard_bytes(finished)
    assert {file: after[file] for file in before} == before
    values = json.loads(sbiflow("status", "-o", finished, "--json").stdout)
    assert values["done"] == 600
    assert values["digest"] != half
    sbiflow("simulate", "-o", finished, "budget=400")
    assert shard_bytes(finished) == after
    assert json.loads(sbiflow("status", "-o", finished, "--json").stdout)["digest"] == half


def test_a_run_that_exists_needs_no_configuration(finished: Path) -> None:
    before = shard_bytes(finished)
    sbiflow("run", "-o", finished, "max_failed=0.06")
    assert shard_bytes(finished) == before
    assert "max_failed: 0.06" in (finished / "config.yml").read_text()


def test_samples_for_an_observation(finished: Path, project: Path) -> None:
    x = np.full(10, 0.5)
    np.savez(project / "x.npz", x=x)
    out = project / "draws.npz"
    sbiflow("sample", "-o", finished, "--obs", project / "x.npz", "-n", 50, "--out", out, "steps=3")
    with np.load(out) as draws:
        assert draws["theta"].shape == (50, 2)
        assert draws["names"].tolist() == ["mu", "sigma"]
    np.savez(project / "bad.npz", x=np.zeros(7))
    done = sbiflow(
        "sample", "-o", finished, "--obs", project / "bad.npz", "--out", project / "no.npz", code=2
    )
    assert "(7,)" in done.stderr
    assert "(10,)" in done.stderr
    assert not (project / "no.npz").exists()


def test_evaluate_prints_json(finished: Path) -> None:
    values = json.loads(sbiflow("evaluate", "-o", finished, "--json").stdout)
    assert values["metrics"]["rmse"]["mean"] > 0


def test_store_info_verify_export(finished: Path, project: Path) -> None:
    assert (
        json.loads(sbiflow("store", "info", "-o", finished, "--json").stdout)["train"]["files"] < 40
    )
    sbiflow("store", "verify", "-o", finished)
    sbiflow("store", "export", "-o", finished, "--out", project / "all.npz")
    with np.load(project / "all.npz") as arrays:
        assert len(arrays["theta"]) >= 400


def test_a_flipped_byte_is_found_and_mended(project: Path) -> None:
    run = project / "flipped"
    words = ("-c", project / "small.yaml", "budget=64", "test=0", "--leases")
    sbiflow("simulate", "-o", run, *words)
    digest = json.loads(sbiflow("status", "-o", run, "--json").stdout)["digest"]
    victim = max(shard_bytes(run), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert "repair" in sbiflow("store", "verify", "-o", run, code=1).stderr
    sbiflow("store", "repair", "-o", run)
    sbiflow("store", "verify", "-o", run)
    assert json.loads(sbiflow("status", "-o", run, "--json").stdout)["digest"] == digest


def test_a_signal_leaves_a_resumable_run(project: Path) -> None:
    run = project / "stopped"
    words = ["simulate", "-o", run, "-c", project / "small.yaml", "test=0", "budget=40"]
    words += ["simulator=model.py:slow", "name=slow"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *map(str, words)],
        stderr=subprocess.PIPE, text=True, cwd=project, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    shards = run / "store" / "train" / "sessions"
    deadline = time.monotonic() + 120
    while not list(shards.rglob("*.spool")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert "SIGTERM" in errors
    done = json.loads(sbiflow("status", "-o", run, "--json").stdout)["done"]
    assert 0 < done < 40
    sbiflow("simulate", "-o", run)
    assert json.loads(sbiflow("status", "-o", run, "--json").stdout)["done"] == 40


def test_failures_are_rows_and_too_many_have_a_code(project: Path) -> None:
    run = project / "fragile"
    words = ["-c", str(project / "small.yaml"), "name=f", "budget=100", "test=0", "--leases"]
    words += [f"simulator={project}/model.py:fragile"]
    done = sbiflow("simulate", "-o", run, *words, code=3)
    assert "max_failed" in done.stderr
    rows = json.loads(sbiflow("failures", "-o", run, "--json").stdout)
    assert 5 < len(rows) < 40
    assert all(row["theta"]["mu"] < 0.2 and "too small" in row["message"] for row in rows)
    sbiflow("simulate", "-o", run, "--retry", "failed", "max_failed=0.5", "--leases")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "small.yaml", "-o", "no", "bugdet=1"], "budget"),
        (["run", "small.yaml", "-o", "no", "budget=-1"], "-1"),
        (["run", "small.yaml", "-o", "no", "simulator=two_mons"], "two_moons"),
        (["run", "small.yaml", "-o", "no", "estimator=nfs"], "nsf"),
        (["run", "small.yaml", "-o", "no", "estimator.arguments.widht=3"], "width"),
        (["run", "small.yaml", "-o", "no", "evaluate.metrics=[rmsee]"], "rmse"),
        (["run", "small.yaml", "-o", "no", "prior={mu: {name: uniform, low: 3, high: 1}}"], "mu"),
        (["run", "small.yaml", "-o", "no", "prior={nu: {name: uniform, low: 0, high: 1}}"], "nu"),
        (["simulate", "-c", "small.yaml", "-o", "no", "simulator=model.py:shapeless"], "ragged"),
        (["run", "missing.yaml", "-o", "no"], "missing.yaml"),
        (["run", "small.yaml", "-o", "no", "--nonsense"], "--nonsense"),
        (["status", "-o", "no"], "config.yml"),
        (["list", "things"], "simulators"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(project)
    done = sbiflow(*words, code=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "no").exists()


def test_another_configuration_is_refused_with_a_diff(finished: Path, project: Path) -> None:
    done = sbiflow("run", project / "small.yaml", "-o", finished, "seed=9", code=2)
    assert "seed: 0 -> 9" in done.stderr


def test_two_drivers_on_one_run(project: Path) -> None:
    run = project / "twice"
    words = ["simulate", "-o", run, "-c", project / "small.yaml", "test=0", "budget=30", "name=s"]
    words += [f"simulator={project}/model.py:slow"]
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    codes = sorted((process.wait(timeout=120), process.communicate()[1]) for process in both)
    assert codes[0][0] == 0, codes
    assert codes[1][0] == 1
    assert "in use by process" in codes[1][1]


def test_check_plan_and_list(project: Path) -> None:
    assert "no problems" in sbiflow("check", project / "small.yaml").stdout
    done = sbiflow("plan", "-o", project / "never", "-c", project / "small.yaml", "--json")
    assert json.loads(done.stdout)["streams"]["train"] == {"need": 400, "have": 0, "new": 400}
    assert not (project / "never").exists()
    assert "two_moons" in sbiflow("list", "simulators").stdout.split()


def test_an_estimator_that_cannot_take_the_outputs_ends_a_run_at_the_first_ones(
    project: Path,
) -> None:
    words = ["estimator.arguments.width=-3", "budget=100000", f"simulator={project}/model.py:slow"]
    done = sbiflow("run", project / "small.yaml", *words, "-o", project / "refused", code=2)
    assert "estimator 'cmpe_distilled': network 'mlp': width = -3" in done.stderr
    assert not (project / "refused").exists()
