"""The stage with real actors: budgets, failures of every kind, time-outs, stops, limits."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cluster
import simulators
from pipeline.errors import PipelineError, Stopped, TooManyFailed, UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.seed import generators, points
from pipeline.simulate.stage import simulate
from pipeline.stop import Stop
from pipeline.store import IdentityError, LockedError, Outcome, Store, Writer, to_numpy

MODELS = '''
import ctypes, os, re, subprocess, time
from pathlib import Path
import numpy as np
from simulators import Uniform, simulator

HERE = os.path.dirname(__file__)
PRIOR = {"u": Uniform(0, 1)}

def logged(u):
    with open(os.path.join(HERE, "calls.txt"), "ab", buffering=0) as log:
        log.write(f"{u!r} {os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n".encode())

@simulator(prior=PRIOR)
def good(u, rng):
    logged(u)
    time.sleep(0.005)
    return {"x": rng.normal(u, 1, 3), "pid": np.int64(7)}

@simulator(prior=PRIOR)
def difficult(u, rng):
    """Whatever can go wrong, by parameter."""
    logged(u)
    time.sleep(0.01)
    if u < 0.05:
        raise ValueError(f"no root at {u:.3f}")
    if u < 0.07:
        time.sleep(1000)
    if u < 0.09:
        ctypes.PyDLL(None).sleep(1000)  # in C, with the GIL
    if u < 0.11:
        re.match(r"(a+)+$", "a" * 60 + "b")  # catastrophic backtracking
    if u < 0.14:
        return np.array([np.nan, u, 1.0])
    if u < 0.17:
        ctypes.string_at(0)
    if u < 0.19:
        raise SystemExit(3)
    return rng.normal(u, 1, 3)

@simulator(prior=PRIOR)
def changing(u, rng):
    return np.zeros(3 if u < 0.97 else 2)

@simulator(prior=PRIOR)
def never(u, rng):
    raise RuntimeError("always")

@simulator(prior=PRIOR)
def seldom(u, rng):
    logged(u)
    time.sleep(0.02)
    if u < 0.8:
        raise RuntimeError("mostly")
    return rng.normal(u, 1, 3)

@simulator(prior=PRIOR)
def stuck(u, rng):
    logged(u)
    ctypes.PyDLL(None).sleep(1000)

@simulator(prior=PRIOR)
def greedy(u, rng):
    logged(u)
    if u > 0.9:
        os.kill(os.getpid(), 9)  # as the kernel does to one that wants too much memory
    return rng.normal(u, 1, 3)

@simulator(prior=PRIOR)
def leaves(u, rng):
    """Start two daemons, and once be killed; return how many children there were."""
    files = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = sum(len(file.read_text().split()) for file in files)
    mark = os.environ | {"SBIFLOW_TEST_LEFT": HERE}
    subprocess.Popen(["sleep", "600"], env=mark, start_new_session=True)
    subprocess.run(["/bin/sh", "-c", "sleep 600 &"], env=mark)
    if u > 0.5 and not Path(HERE, "killed").exists():
        Path(HERE, "killed").touch()
        os.kill(os.getpid(), 9)
    return {"x": rng.normal(u, 1, 3), "found": found}

@simulator(prior=PRIOR, batched=True)
def many(u, rng):
    return rng.normal(u, 1)

@simulator(prior=PRIOR, ragged=["x"])
def ragged(u, rng):
    return {"x": rng.normal(u, 1, (int(20 * u), 2))}
'''


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One Ray for all tests; each stage reuses it."""
    with cluster.connect("local", cpus=2):
        yield


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    return tmp_path / "models.py"


def configure(models: Path, name: str, budget: int, **settings) -> SimpleNamespace:
    """A configuration as the stage reads it."""
    how = {"workers": 2, "cpus": 1.0, "memory": None, "timeout": None, "block": 64}
    how |= {"accept_source": False, "ray": True, "per_agent": None, "gpus": 0.0}
    how |= {key: settings.pop(key) for key in list(settings) if key in how}
    whole = {
        "seed": 3,
        "simulator": SimpleNamespace(name=f"{models}:{name}", arguments={}),
        "prior": None,
        "budget": budget,
        "design": "random",
        "test": 10,
        "max_failed": 1.0,
        "simulate": SimpleNamespace(**how),
        "store": SimpleNamespace(shard_mb=32),
        "cluster": SimpleNamespace(backend="local", address=None),
    }
    whole |= settings
    budgets = {"train": whole["budget"], "test": whole["test"]}
    return SimpleNamespace(**whole, budgets=budgets)


def go(config, folder, stream="train", **options):
    return simulate(
        config, RunDirectory(folder / "run"), stream, stop=options.pop("stop", Stop()), **options
    )


def store(folder: Path, stream: str = "train") -> Store:
    return Store.open(folder / "run" / "store" / stream)


def calls(models: Path) -> list[list[str]]:
    path = models.parent / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_budget_is_a_total_and_data_depend_on_seed_and_id_alone(models, tmp_path):
    events = []
    first = go(configure(models, "good", 40), tmp_path, record=events.append)
    assert (first.simulated, first.counts["ok"], first.counts["missing"]) == (40, 40, 0)
    assert len(calls(models)) == 40
    assert {threads for _, _, threads in calls(models)} == {"1"}
    assert events[-1]["stream"] == "train"
    assert json.dumps(events[-1])
    before = {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("shards/*/**/*")
        if path.is_file()
    }

    assert go(configure(models, "good", 60), tmp_path).simulated == 20
    assert go(configure(models, "good", 50), tmp_path).simulated == 0
    assert len(calls(models)) == 60
    assert all(path.read_bytes() == content for path, content in before.items())

    alone = go(configure(models, "good", 60, workers=1), tmp_path / "alone")
    assert alone.workers == 1
    assert store(tmp_path).digest() == store(tmp_path / "alone").digest()
    assert not list((tmp_path / "run").glob(".notes-*"))


def test_a_row_equals_the_simulation_of_its_id(models, tmp_path):
    go(configure(models, "good", 12), tmp_path)
    model = simulators.load(f"{models}:good")
    ids, theta, x, _ = to_numpy(store(tmp_path))
    for k in (0, 5, 11):
        prior_rng, noise_rng = generators(3, 0, int(ids[k]))
        assert np.array_equal(theta[k], model.prior.sample(prior_rng, 1)[0])
        assert np.array_equal(x["x"][k], model.simulate(theta[k], noise_rng)["x"])


def test_a_design_grows_with_the_budget_and_leaves_the_test_simulations_random(models, tmp_path):
    for budget in (7, 40):
        go(configure(models, "good", budget, design="sobol"), tmp_path)
    config = configure(models, "good", 40, design="sobol")
    model = simulators.load(f"{models}:good")
    ids, theta, x, _ = to_numpy(store(tmp_path))
    assert np.array_equal(theta, model.prior.quantile(points(3, 0, theta.shape[1], 0, 40))[ids])
    _, noise_rng = generators(3, 0, int(ids[5]))
    assert np.array_equal(x["x"][5], model.simulate(theta[5], noise_rng)["x"])
    with pytest.raises(IdentityError, match=r"design: 'sobol' -> '\(absent\)'"):
        go(configure(models, "good", 40), tmp_path)
    go(config, tmp_path, "test")
    prior_rng, _ = generators(3, 1, 0)
    assert np.array_equal(
        to_numpy(store(tmp_path, "test"))[1][0], model.prior.sample(prior_rng, 1)[0]
    )


def test_a_design_needs_quantiles(models, tmp_path):
    text = "prior = MultivariateNormal(['u'], [0], [[1]], low=[0])\n\n\n@simulator(prior=prior)\n"
    file = tmp_path / "boxed.py"
    file.write_text(
        f"from simulators import MultivariateNormal, simulator\n\n{text}def boxed(u, rng):\n"
        "    return rng.normal(u)\n"
    )
    assert go(configure(file, "boxed", 5), tmp_path / "random").counts["ok"] == 5
    with pytest.raises(UsageError, match="design=sobol needs a prior with quantiles"):
        go(configure(file, "boxed", 5, design="sobol"), tmp_path)


def test_test_simulations_come_from_their_own_stream(models, tmp_path):
    config = configure(models, "good", 10)
    go(config, tmp_path)
    assert go(config, tmp_path, "test").budget == 10
    assert not np.array_equal(to_numpy(store(tmp_path))[1], to_numpy(store(tmp_path, "test"))[1])


def test_a_batched_simulator_does_not_depend_on_how_a_budget_grew(models, tmp_path):
    for budget in (1, 100, 1000):
        go(configure(models, "many", budget), tmp_path)
    go(configure(models, "many", 1000, workers=1), tmp_path / "whole")
    assert store(tmp_path).digest() == store(tmp_path / "whole").digest()
    with pytest.raises(IdentityError, match="block_size"):
        go(configure(models, "many", 1000, block=32), tmp_path)


def test_lengths_that_vary_are_kept(models, tmp_path):
    go(configure(models, "ragged", 30), tmp_path)
    _, theta, _, lengths = to_numpy(store(tmp_path))
    assert lengths["x"].tolist() == [int(20 * u) for u in theta[:, 0]]


def expected(u: float) -> tuple[Outcome, str]:
    """What the difficult simulator comes to at a parameter."""
    table = (
        (0.05, Outcome.FAILED, "ValueError: no root"),
        (0.11, Outcome.TIMEOUT, "no result within 1.0s"),
        (0.14, Outcome.INVALID, "NaN or Inf in x"),
        (0.17, Outcome.FAILED, "its process crashed 2 times: Segmentation fault"),
        (0.19, Outcome.FAILED, "SystemExit: 3"),
        (1.0, Outcome.OK, ""),
    )
    return next((outcome, message) for limit, outcome, message in table if u < limit)


def test_every_way_to_fail_is_a_row_with_its_reason_and_is_retried_alone(models, tmp_path):
    config = configure(models, "difficult", 50, timeout=1.0, seed=40)
    result = go(config, tmp_path)
    found = store(tmp_path)
    rows = found.rows(np.arange(50))
    truth = [expected(u) for u in rows.theta[:, 0]]
    assert {outcome for outcome, _ in truth} == set(Outcome)  # the seed shows every outcome
    assert rows.outcome.tolist() == [outcome for outcome, _ in truth]
    assert result.counts["missing"] == 0
    for failure in found.failures():
        assert failure.message.startswith(truth[failure.id][1])
    late = [failure for failure in found.failures() if failure.outcome is Outcome.TIMEOUT]
    assert all("in difficult" in failure.traceback for failure in late)
    assert not any("/pipeline/" in failure.traceback for failure in late)
    assert all(0.9 < failure.seconds < 10 for failure in late)
    crashes = sum("crashed" in message for _, message in truth)
    assert len(calls(models)) == 50 + crashes  # a crash is tried twice, nothing else is repeated

    before = len(calls(models))
    again = go(config, tmp_path, retry="timeout")
    assert again.simulated == len(late)
    again_calls = Counter(u for u, _, _ in calls(models)[before:])
    assert set(again_calls) == {repr(float(failure.theta[0])) for failure in late}
    assert store(tmp_path).digest() == found.digest()


def test_a_simulation_whose_process_is_always_killed_fails_in_the_end(models, tmp_path):
    result = go(configure(models, "greedy", 8, seed=6), tmp_path)
    (failure,) = store(tmp_path).failures()
    assert result.counts["ok"] == 7
    assert failure.message == "its process was killed 10 times: out of memory?"
    assert Counter(u for u, _, _ in calls(models))[repr(float(failure.theta[0]))] == 10


def test_a_retry_of_what_was_mended_supersedes_the_failure(models, tmp_path):
    config = configure(models, "difficult", 30, timeout=1.0)
    go(config, tmp_path)
    bad = store(tmp_path).counts()
    models.write_text(MODELS.replace("u < 0.05", "u < 0.0"))
    with pytest.raises(
        UsageError, match=r"holds 30 rows by another source(.|\n)*\+    if u < 0.0:"
    ):
        go(config, tmp_path, retry="failed")
    config.simulate.accept_source = True
    result = go(config, tmp_path, retry="failed")
    assert bad["failed"] > 0
    assert result.simulated == bad["failed"]
    assert result.counts["failed"] < bad["failed"]


def test_what_a_simulation_or_an_actor_leaves_running_ends_with_it(models, tmp_path):
    assert go(configure(models, "leaves", 20), tmp_path).counts["ok"] == 20
    assert (tmp_path / "killed").exists()
    assert not to_numpy(store(tmp_path))[2]["found"].any()
    deadline, mark = time.monotonic() + 30, f"SBIFLOW_TEST_LEFT={tmp_path}".encode()

    def left() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*/environ") if mark in read(path)]

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    while left():
        assert time.monotonic() < deadline, left()
        time.sleep(0.05)


def test_a_run_that_is_deleted_ends_the_stage(models, tmp_path):
    run = tmp_path / "run"

    def delete() -> None:
        while not list(run.glob("store/train/sessions/*/*.spool")):
            time.sleep(0.02)
        while run.exists():
            shutil.rmtree(run, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    with (
        pytest.raises(PipelineError, match="run is gone: it was deleted"),
        RunDirectory(run).lock(),
    ):
        go(configure(models, "seldom", 100_000), tmp_path)
    thread.join()
    assert not run.exists()


def test_an_unknown_outcome_to_retry_is_refused(models, tmp_path):
    with pytest.raises(UsageError, match="'lost': valid are all, failed, invalid, timeout"):
        go(configure(models, "good", 4), tmp_path, retry="lost")


def test_too_many_failures_are_an_error_after_all_is_kept(models, tmp_path):
    with pytest.raises(TooManyFailed, match=r"100\.0% .* \(12 failed\), more than max_failed=0.2"):
        go(configure(models, "never", 12, max_failed=0.2), tmp_path)
    assert store(tmp_path).counts(12)["failed"] == 12
    assert store(tmp_path).schema is None


def test_outputs_may_come_late(models, tmp_path):
    result = go(configure(models, "seldom", 60), tmp_path)
    ok = store(tmp_path).rows(np.arange(60)).theta[:, 0] >= 0.8
    assert not ok[:3].any()  # the probe sees failures only
    assert result.counts["ok"] == ok.sum() > 0
    assert len(calls(models)) == 60  # the one that showed the outputs was not run again
    assert to_numpy(store(tmp_path))[2]["x"].shape == (ok.sum(), 3)


def test_outputs_that_change_shape_stop_the_stage(models, tmp_path):
    with pytest.raises(UsageError, match=r"'x' is float64 \(2,\), .* \(3,\).*ragged"):
        go(configure(models, "changing", 2000), tmp_path)
    assert store(tmp_path).counts()["done"] < 2000


def test_outputs_that_change_in_the_first_simulations_leave_nothing(models, tmp_path):
    models.write_text(MODELS.replace("u < 0.97", "u < 0.5"))
    with pytest.raises(UsageError, match="ragged"):
        go(configure(models, "changing", 2000), tmp_path)
    assert not (tmp_path / "run" / "store").exists()


def test_more_than_the_cluster_has_is_refused_before_anything_is_written(models, tmp_path):
    with pytest.raises(UsageError, match=r"simulate.workers=9 with simulate.cpus=1 .* 2 cores"):
        go(configure(models, "good", 100, workers=9), tmp_path)
    with pytest.raises(UsageError, match="room for 0"):
        go(configure(models, "good", 100, workers=None, memory="1TB"), tmp_path)
    with pytest.raises(UsageError, match=r"simulate.memory = 'much'"):
        go(configure(models, "good", 100, memory="much"), tmp_path)
    assert not (tmp_path / "run" / "store").exists()


def stop_after(models: Path, number: int, reason: str) -> Stop:
    """Return a stop that is requested when so many simulations were called."""
    stop = Stop()

    def wait() -> None:
        while len(calls(models)) < number:
            time.sleep(0.05)
        stop.request(reason)

    threading.Thread(target=wait, daemon=True).start()
    return stop


def test_a_stop_keeps_what_is_finished_and_leaves_within_seconds(models, tmp_path):
    stop = stop_after(models, 20, "SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM"):
        go(configure(models, "good", 100_000), tmp_path, stop=stop)
    done = store(tmp_path).counts(100_000)["done"]
    assert 0 < done < 100_000
    assert done == len(store(tmp_path).ids())  # merged into shards
    assert abs(len(calls(models)) - done) <= 2


def test_a_stop_does_not_wait_for_a_simulation_stuck_in_c(models, tmp_path):
    stop = stop_after(models, 1, "SIGINT")
    asked = time.monotonic()
    with pytest.raises(Stopped):
        go(configure(models, "stuck", 4), tmp_path, stop=stop)
    assert time.monotonic() - asked < 60
    pids = [int(pid) for _, pid, _ in calls(models)]
    deadline = time.monotonic() + 10
    while any(Path("/proc", str(pid)).exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


def test_two_drivers_do_not_write_one_store(models, tmp_path):
    go(configure(models, "good", 4), tmp_path)
    with Writer(store(tmp_path)), pytest.raises(LockedError, match=str(os.getpid())):
        go(configure(models, "good", 8), tmp_path)
