"""Simulating by leases as a whole: shared, interrupted, taken over, repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import simulators
from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import (
    LockedError,
    Stopped,
    TooManyFailed,
    UsageError,
)
from pipeline.run import RunDirectory
from pipeline.simulate.leases.lease import LeaseLost
from pipeline.simulate.leases.shared_budget import SharedBudget
from pipeline.simulate.leases.stage import simulate
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import schema_of
from pipeline.stop import Stop
from pipeline.store import Outcome, Spool, Store, Writer, verify

SIMULATOR = """
import ctypes, os, signal, time
import numpy as np
from simulators import Normal, simulator


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)})
def noisy(a, b, rng):
    time.sleep(float(os.environ.get("NAP", "0")))
    if os.environ.get("HARSH"):
        if a > 2.0:
            raise RuntimeError("a is large")
        if a < -2.0:
            ctypes.CDLL(None).sleep(60)  # no Python signal handler runs in here
        if b > 2.0:
            ctypes.string_at(0)  # a segmentation fault
        if b < -2.0:
            return {"x": np.array([np.nan, 0.0])}
    return {"x": np.array([a, b]) + 0.5 * rng.normal(size=2)}


@simulator(prior={"a": Normal(0, 1)}, batched=True)
def block(a, rng):
    return {"x": a[:, None] + rng.normal(size=(len(a), 2))}
"""


def _config(folder: Path, *words: str, name: str = "noisy") -> Config:
    (folder / "noisy.py").write_text(SIMULATOR)
    values = {
        "name": "small",
        "simulator": f"{folder / 'noisy.py'}:{name}",
        "budget": 60,
        "test": 0,
    }
    return configuration.build(
        configuration.override(values, ("simulate.workers=1", "simulate.term=2", *words))
    )


def _expected(config: Config) -> str:
    """Return the digest of rows computed here, one after the other."""
    simulation = spec_of(config, "train")
    rows = [
        simulation.run(np.arange(k, k + simulation.key_size))
        for k in range(0, config.budget, simulation.key_size)
    ]
    schema = schema_of(rows[0], frozenset())
    folder = Path(config.simulator.name.rpartition(":")[0]).parent / f"expected-{time.time_ns()}"
    store = Store.create(folder, identity(simulation), schema)
    with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 1000) as spool:
        for row in rows:
            spool.append(row.take(np.flatnonzero(row.ids < config.budget)))
    return store.digest(config.budget)


def _command(
    config: Config, run: RunDirectory, retry: str = "", **variables: str
) -> subprocess.Popen[bytes]:
    configuration.save(config, run)
    words = ["--retry", retry] if retry else []
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "simulate", "-o", str(run.path), "--leases", *words],
        env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["noisy", "block"])
def test_three_processes_give_the_digest_of_one(tmp_path: Path, name: str) -> None:
    words = ("simulate.leases=12", "simulate.block=4", "simulate.term=60")
    config = _config(tmp_path, *words, name=name)
    run = RunDirectory(tmp_path / "run")
    processes = [_command(config, run) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    store = Store.open(run.store("train"))
    assert store.digest(60) == _expected(config)
    assert len(store.index.shards) == 1
    assert not any((store.path / "sessions").iterdir())
    assert not any((store.path / "leases").iterdir())
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert [event["simulated"] for event in events] == [
        60
    ]  # one process said so, and no row was made twice
    assert not verify(store)


def test_failures_of_all_kinds_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARSH", "1")
    config = _config(tmp_path, "simulate.timeout=1", "max_failed=1", "budget=80")
    result = simulate(config, RunDirectory(tmp_path / "run"), stop=Stop())
    thetas = np.array([spec_of(config, "train").theta(np.array([k]))[0] for k in range(80)])
    a, b = thetas.T
    known = {
        "timeout": np.sum(a < -2),
        "failed": np.sum((a > 2) | ((b > 2) & (a >= -2))),
        "invalid": np.sum((b < -2) & (np.abs(a) <= 2)),
    }
    assert all(known.values())
    assert {kind: result.counts[kind] for kind in known} == known
    assert result.counts["missing"] == 0
    rows = Store.open(tmp_path / "run/store/train").failures()
    reasons = {row.message for row in rows if row.outcome == Outcome.TIMEOUT}
    assert reasons == {"no result within 1.0s: its process was ended"}
    with pytest.raises(TooManyFailed):
        simulate(
            config.model_copy(update={"max_failed": 0.01}),
            RunDirectory(tmp_path / "run"),
            stop=Stop(),
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_leaves_everything_durable_and_the_leases_free(
    tmp_path: Path, number: int
) -> None:
    config, run = _config(tmp_path, "simulate.term=3600"), RunDirectory(tmp_path / "run")
    process = _command(config, run, NAP="0.1")
    done = _until(lambda: _done(run) >= 5)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4, said
    assert b"repeat the same command to continue" in said
    assert _done(run) >= done
    again = _command(config, run)  # need not wait for the term
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert Store.open(run.store("train")).digest(60) == _expected(config)


def test_a_killed_process_loses_what_was_in_flight_and_no_lease_is_stuck(tmp_path: Path) -> None:
    config, run = _config(tmp_path, "simulate.leases=6"), RunDirectory(tmp_path / "run")
    victim = _command(config, run, NAP="0.1")
    _until(lambda: _done(run) >= 5)
    victim.kill()
    victim.wait()
    before = _done(run)
    result = simulate(config, run, stop=Stop())
    assert Store.open(run.store("train")).digest(60) == _expected(config)
    assert result.simulated == 60 - before  # a block that was half done is gone on with


def test_a_frozen_process_is_replaced_and_gives_in_when_it_wakes(tmp_path: Path) -> None:
    config, run = _config(tmp_path, "simulate.leases=6"), RunDirectory(tmp_path / "run")
    frozen = _command(config, run, NAP="0.1")
    _until(lambda: _done(run) >= 5)
    frozen.send_signal(signal.SIGSTOP)
    try:
        simulate(config, run, stop=Stop())
    finally:
        frozen.send_signal(signal.SIGCONT)
    _, said = frozen.communicate(timeout=120)
    assert frozen.returncode == 0, said  # all is there, whoever did it
    store = Store.open(run.store("train"))
    assert store.digest(60) == _expected(config)
    assert not any((store.path / "sessions").iterdir())


@pytest.mark.chaos
@pytest.mark.parametrize(
    "load",
    [
        "16, 8, 600, 120, 2.0",
        pytest.param(
            "200, 200, 8000, 1600, 4.0", marks=[pytest.mark.nightly, pytest.mark.timeout(900)]
        ),
    ],
)
def test_of_many_processes_most_are_killed_and_every_id_is_there_once(load: str) -> None:
    command = (
        f"import json; from benchmarks.leases import stress; print(json.dumps(stress({load})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )  # in a process of its own, which may fork
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["held"], result


def test_who_comes_when_all_is_there_makes_no_plan(tmp_path: Path) -> None:
    shared_budget = _shared_budget(tmp_path, rows=60)
    assert shared_budget.plan(8, (), Stop()) is None
    assert not shared_budget.folder.exists()


def test_the_next_shared_budget_of_a_name_is_not_taken_for_the_first(tmp_path: Path) -> None:
    shared_budget = _shared_budget(tmp_path, rows=0)
    first = shared_budget.plan(8, (), Stop())
    assert first is not None
    assert shared_budget.is_current(first)
    shared_budget.folder.rename(tmp_path / "over")  # another process finished
    assert not shared_budget.is_current(first)
    assert not shared_budget.has_work(first)
    second = shared_budget.plan(4, (), Stop())  # and a later one found rows missing
    assert second is not None
    assert shared_budget.is_current(second)
    assert shared_budget.finish(first, Stop()) is None
    with pytest.raises(LeaseLost, match="a later plan"), shared_budget.participant(first):
        pass
    assert shared_budget.has_work(second)
    assert not any((shared_budget.store.path / "sessions").iterdir())


def _shared_budget(folder: Path, rows: int) -> SharedBudget:
    """Return a shared budget of 60 rows, of which some are there."""
    config = _config(folder)
    simulation = spec_of(config, "train")
    store = Store.create(folder / "store", identity(simulation))
    with Writer(store) as writer:
        made = [simulation.run(np.array([number])) for number in range(rows)]
        if made:
            writer.set_schema(schema_of(made[0], frozenset()))
            with Spool(writer.spool_directory, "a", store.schema, 1000) as spool:
                for row in made:
                    spool.append(row)
    return SharedBudget(store, 60, 2.0, 1, simulators.load("two_moons"))


def test_a_larger_budget_adds_and_a_complete_one_does_nothing(tmp_path: Path) -> None:
    config, run = _config(tmp_path), RunDirectory(tmp_path / "run")
    assert simulate(config, run, stop=Stop()).simulated == 60
    assert simulate(config, run, stop=Stop()).simulated == 0
    more = config.model_copy(update={"budget": 90})
    assert simulate(more, run, stop=Stop()).simulated == 30
    assert Store.open(run.store("train")).digest(90) == _expected(more)


def test_rows_that_failed_are_run_again_once_by_all_together(tmp_path: Path) -> None:
    config, run = (
        _config(tmp_path, "simulate.timeout=1", "max_failed=1"),
        RunDirectory(tmp_path / "run"),
    )
    assert _command(config, run, HARSH="1").wait(120) == 0
    store = Store.open(run.store("train"))
    bad = 60 - store.counts(60)["ok"]
    assert bad > 2
    again = [_command(config, run, retry="all") for _ in range(2)]
    for process in again:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert store.counts(60)["ok"] == 60
    assert store.digest(60) == _expected(config)
    events = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert events[-1]["simulated"] == bad


def test_what_fails_again_is_not_run_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARSH", "1")
    config, run = (
        _config(tmp_path, "simulate.timeout=1", "max_failed=1"),
        RunDirectory(tmp_path / "run"),
    )
    first = simulate(config, run, stop=Stop()).counts
    second = simulate(config, run, stop=Stop(), retry="failed")
    assert second.simulated == first["failed"] > 0
    assert second.counts == first


def test_a_killed_retry_is_gone_on_with(tmp_path: Path) -> None:
    config = _config(tmp_path, "simulate.timeout=1", "max_failed=1", "simulate.leases=2")
    run = RunDirectory(tmp_path / "run")
    assert _command(config, run, HARSH="1").wait(120) == 0
    victim = _command(config, run, retry="all", NAP="0.25")
    shared_budget = run.store("train") / "leases" / "60"
    _until(lambda: any(shared_budget.glob("00000*")))
    victim.kill()
    victim.wait()
    simulate(config, run, stop=Stop())  # the rows are all there: nothing to do
    assert Store.open(run.store("train")).counts(60)["ok"] < 60
    simulate(config, run, stop=Stop(), retry="all")
    assert Store.open(run.store("train")).digest(60) == _expected(config)


@pytest.mark.parametrize("damage", ["", '{"ids": [[0, 60]], ', "[]"])
def test_a_damaged_plan_is_made_anew_of_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    config, run = (
        _config(tmp_path, "simulate.leases=6", "simulate.term=1"),
        RunDirectory(tmp_path / "run"),
    )
    victim = _command(config, run, NAP="0.25")
    shared_budget = run.store("train") / "leases" / "60"
    _until(lambda: any(shared_budget.glob("00000?.done")))
    victim.kill()
    victim.wait()
    (shared_budget / "plan.json").write_text(damage)
    result = simulate(config, run, stop=Stop())
    assert 0 < result.simulated < 60
    assert Store.open(run.store("train")).digest(60) == _expected(config)
    assert "plan.json is damaged" in capsys.readouterr().err


def test_a_stop_before_the_work_is_a_stop(tmp_path: Path) -> None:
    stop = Stop()
    stop.request("SIGUSR1")
    with pytest.raises(Stopped):
        simulate(_config(tmp_path), RunDirectory(tmp_path / "run"), stop=stop)


def test_those_who_share_a_run_keep_a_single_driver_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock(shared=True), run.lock(shared=True), pytest.raises(LockedError), run.lock():
        pass
    with run.lock(), pytest.raises(LockedError), run.lock(shared=True):
        pass


@pytest.mark.parametrize(
    ("words", "granted"),
    [
        (("simulate.workers=1000",), {}),
        (("simulate.workers=2", "simulate.memory=400MB"), {"SLURM_MEM_PER_NODE": "500"}),
        (("simulate.memory=600MB",), {"SLURM_MEM_PER_NODE": "500"}),
    ],
)
def test_more_workers_than_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], granted: dict[str, str]
) -> None:
    for name, value in {"SLURM_CPUS_ON_NODE": "4", **granted}.items():
        monkeypatch.setenv(name, value)
    config = _config(tmp_path, "cluster.backend=slurm", *words)
    with pytest.raises(UsageError, match=r"simulate\.workers=\d+ .* do not fit"):
        simulate(config, RunDirectory(tmp_path / "run"), stop=Stop())


def _done(run: RunDirectory) -> int:
    path = run.store("train")
    return Store.open(path).counts()["done"] if (path / "store.json").exists() else 0


def _until(value: Callable[[], int | bool], patience: float = 60) -> int | bool:
    deadline = time.monotonic() + patience
    while not (found := value()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
