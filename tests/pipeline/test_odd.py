"""Simulators that do what they should not: right rows, rows that say why, or a clear error; by real workers."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.children import MARK
from pipeline.simulate.leases.stage import simulate
from pipeline.simulate.setup import spec_of
from pipeline.stop import Stop
from pipeline.store import Outcome, Store, to_numpy, verify

FILE = Path(__file__).parents[1] / "simulators" / "odd.py"
spec = importlib.util.spec_from_file_location("odd", FILE)
assert spec is not None
assert spec.loader is not None
odd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(odd)

BUDGET = 30
PROCESS = (  # what must be tried in a process of its own
    "view", "view_batched", "aliases_theta", "aliases_outputs", "changes_theta", "changes_theta_batched",
    "forks", "forks_daemon", "starts_program", "starts_process", "uses_pool", "keeps_pool", "changes_directory",
    "changes_environment", "changes_umask", "installs_handlers", "blocks_signals", "starts_threads", "prints",
    "closes_stdout", "sets_numpy_errors", "sets_warnings_to_errors", "limits_recursion",
)  # fmt: skip
FAST = ("view", "aliases_outputs", "changes_theta_batched", "forks_daemon", "keeps_pool", "changes_umask",
        "closes_stdout", "sets_numpy_errors", "sets_warnings_to_errors", "limits_recursion")  # fmt: skip
DEADLY = (
    "closes_files",
    "exits_at_once",
    "kills_itself",
    "aborts",
)  # many processes, or a core dump
HERE = sorted(
    name
    for name, expected in odd.EXPECTED.items()
    if expected in (odd.FAILED, odd.REFUSED) and name not in DEADLY
)


def configure(name: str, *words: str, file: Path = FILE) -> Config:
    values = {
        "name": "odd",
        "simulator": f"{file}:{name}",
        "budget": BUDGET,
        "test": 0,
        "max_failed": 1,
    }
    settings = ("simulate.workers=1", "simulate.block=16", "simulate.timeout=60")
    return configuration.build(configuration.override(values, [*settings, *words]))


def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return theta and x of the well-behaved simulator, made in this process."""
    simulation = spec_of(configure(name), "train")
    parts = [
        simulation.run(np.arange(first, min(first + simulation.key_size, BUDGET)))
        for first in range(0, BUDGET, simulation.key_size)
    ]
    return np.concatenate([p.theta for p in parts]), np.concatenate([p.x["x"] for p in parts])


def check(name: str, store: Store) -> None:
    """Compare what a simulator made with what must come of it."""
    _, theta, x, _ = to_numpy(store)
    assert store.counts(BUDGET)["ok"] == BUDGET
    plain = "plain_batched" if name.endswith("_batched") else "plain"
    right, values = expected(plain)
    assert np.array_equal(theta, right)
    assert np.array_equal(x["x"], values)
    if name == "aliases_theta":
        assert np.array_equal(x["same"], theta)
    if name == "aliases_outputs":
        assert np.array_equal(x["y"], values[:, ::-1])
    assert not verify(store)


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PROCESS],
)
def test_it_makes_the_rows_of_one_that_behaves(name: str, tmp_path: Path) -> None:
    simulate(configure(name), RunDirectory(tmp_path / "run"), stop=Stop())
    check(name, Store.open(tmp_path / "run/store/train"))


def test_rows_of_a_reused_array_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    digests = []
    for workers in (1, 2):
        run = RunDirectory(tmp_path / str(workers))
        simulate(configure("view", f"simulate.workers={workers}"), run, stop=Stop())
        digests.append(Store.open(run.store("train")).digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", HERE)
def test_it_fails_row_by_row_or_is_refused_by_name(name: str) -> None:
    simulation = spec_of(configure(name), "train")
    whole = {"names_by_parameters", "ragged_undeclared", "int_then_float", "shape_by_parameters"}
    if odd.EXPECTED[name] == odd.REFUSED and name not in whole | {"empty"}:
        with pytest.raises(UsageError, match=f"simulation 0: odd.py:{name}: .*output"):
            simulation.run(np.arange(simulation.key_size))
    elif odd.EXPECTED[name] == odd.FAILED:
        rows = [simulation.run(np.array([number])) for number in range(BUDGET)]
        bad = [failure for part in rows for failure in part.failures]
        assert 0 < len(bad) < BUDGET
        assert all(failure.message for failure in bad)
        assert {int(part.outcome[0]) for part in rows} <= {0, Outcome.FAILED, Outcome.INVALID}


@pytest.mark.parametrize("name", ["empty", "longdouble"])
def test_a_store_lives_on_after_outputs_were_refused(name: str, tmp_path: Path) -> None:
    """The same file, mended, goes on in the same run."""
    file, run = tmp_path / "odd.py", RunDirectory(tmp_path / "run")
    text = FILE.read_text()
    file.write_text(text)
    with pytest.raises(UsageError, match="output"):
        simulate(configure(name, file=file), run, stop=Stop())
    mended = text.replace(
        f"def {name}(", f"def {name}(a, b, rng):\n    return outputs(a, b, rng)\n\n\ndef unused_("
    )
    file.write_text(mended)
    simulate(configure(name, file=file), run, stop=Stop())
    assert Store.open(run.store("train")).counts(BUDGET)["ok"] == BUDGET


def test_a_relative_run_and_a_simulator_that_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(Path("run"))
    assert run.path == tmp_path / "run"
    simulate(configure("changes_directory"), run, stop=Stop())
    check("changes_directory", Store.open(tmp_path / "run/store/train"))


# --- processes that are left behind ---------------------------------------------------------------

CHILDREN = '''
import os, subprocess, time
from pathlib import Path
from simulators import Uniform, simulator

HERE = Path(__file__).parent


def below() -> int:
    """Return how many children this process has: orphans of its descendants are its children."""
    files = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return sum(len(file.read_text().split()) for file in files)


def daemon() -> None:
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)


@simulator(prior={"a": Uniform(0, 1)})
def leaves(a, rng):
    found = below()
    daemon()
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"], start_new_session=True)
    return {"x": [a, found]}


@simulator(prior={"a": Uniform(0, 1)})
def dies(a, rng):
    """Once, in the middle of a simulation, by a signal; and once more by its time-out."""
    daemon()
    subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"], start_new_session=True)
    if a > 0.6 and not (HERE / "killed").exists():
        (HERE / "killed").touch()
        os.kill(os.getpid(), 9)
    if a < 0.4 and not (HERE / "late").exists():
        (HERE / "late").touch()
        time.sleep(600)
    return {"x": [a]}


@simulator(prior={"a": Uniform(0, 1)})
def rests(a, rng):
    daemon()
    subprocess.Popen(["sleep", "600"])
    (HERE / "resting").touch()
    time.sleep(600)
'''


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models.py").write_text(CHILDREN)
    return tmp_path / "models.py"


def await_end_of(variable: str) -> None:
    """Wait until no process has a variable in its environment, such as `SBIFLOW_WORKER=`."""
    deadline = time.monotonic() + 30
    while found := odd.left(variable):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_what_a_simulation_leaves_running_ends_with_it(models: Path, tmp_path: Path) -> None:
    config = configure("leaves", file=models)
    simulate(config, RunDirectory(tmp_path / "run"), stop=Stop())
    _, _, x, _ = to_numpy(Store.open(tmp_path / "run/store/train"))
    assert x["x"].shape == (BUDGET, 2)
    assert not x["x"][:, 1].any()


def test_what_a_worker_leaves_running_ends_with_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"SBIFLOW_TEST_{os.getpid()}_{time.time_ns()}"
    monkeypatch.setenv(mark, "1")
    config = configure("dies", "simulate.timeout=2", file=models)
    result = simulate(config, RunDirectory(tmp_path / "run"), stop=Stop())
    assert (result.counts["ok"], result.counts["timeout"]) == (BUDGET - 1, 1)
    assert (tmp_path / "killed").exists()
    monkeypatch.delenv(mark)
    await_end_of(mark)


def test_what_a_worker_leaves_running_ends_with_a_killed_driver(
    models: Path, tmp_path: Path
) -> None:
    mark, run = f"SBIFLOW_TEST_{os.getpid()}_{time.time_ns()}", RunDirectory(tmp_path / "run")
    configuration.save(configure("rests", file=models), run)
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "simulate", "-o", str(run.path), "--leases"],
        env=os.environ | {mark: "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "resting").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    assert len(odd.left(mark)) >= 4  # driver, worker, daemon, sleep
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    await_end_of(mark)


def test_the_mark_is_of_workers_alone() -> None:
    assert MARK not in os.environ
