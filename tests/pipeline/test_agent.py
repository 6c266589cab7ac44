"""An agent without Ray, in a process of its own: it settles deaths and time-outs, and answers for every id."""

from __future__ import annotations

import os
import pickle
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulators
from benchmarks.chaos_simulate import descendants
from cluster.preflight import fingerprint
from pipeline.errors import PipelineError
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES, Report, WorkerSetup
from pipeline.simulate.agent import SimulationAgent
from pipeline.simulate.note import read_note
from pipeline.simulate.spawn import POOL, spawn
from pipeline.simulate.spec import SimulationSpec
from pipeline.simulate.work import AGENT_TARGET, PARTS, Work
from pipeline.store import Outcome
from pipeline.store.spool import scan

MODEL = """
import os, time
from simulators import Uniform, simulator

@simulator(prior={"u": Uniform(0, 1)})
def model(u, rng):
    if u > 0.97:
        time.sleep(100)
    if u > 0.94:
        os.abort()
    time.sleep(NAP)
    return rng.normal(u)
"""


def setup_of(folder: Path, nap: float, text: str = MODEL) -> WorkerSetup:
    (folder / "model.py").write_text(text.replace("NAP", str(nap)))
    spec = SimulationSpec(simulators.load(f"{folder}/model.py:model"), 0, 0, 1, 0.5)
    code = fingerprint(PACKAGES, DISTRIBUTIONS)
    return WorkerSetup(pickle.dumps(spec), spec.simulator.source_digest(), code, folder)


def begin(agent: SimulationAgent, folder: Path, ids: range) -> Report:
    """Simulate the first ids and open the spools in `folder`; return the report of the first ids."""
    found = agent.probe(0, ids, 1.0)
    assert (found.rows, found.held) == (0, len(ids))
    assert found.schema is not None
    (folder / "spools").mkdir()
    return agent.open(folder / "spools", found.schema, 1000)


def durable(folder: Path) -> list[int]:
    found: list[int] = []
    for path in (folder / "spools").glob("*.spool"):
        with open(path, "rb") as file:
            found += [int(number) for entry in scan(file) for number in entry.ids]
    return sorted(found)


def all_outcomes(folder: Path) -> tuple[list[int], int]:
    """Simulate 60 ids in two blocks; return the outcomes, and the simulations beyond the limits."""
    setup = setup_of(folder, 0.001)
    agent = SimulationAgent("00000", 2, 1.0)
    agent.start(setup)
    with ThreadPoolExecutor(2) as threads:
        reports = [begin(agent, folder, range(4))]
        waiting = [threads.submit(agent.run, k, range(28 * k - 24, 28 * k + 4)) for k in (1, 2)]
        reports += [answer.result() for answer in waiting]
    agent.close()
    assert [report.rows for report in reports] == [4, 28, 28]
    assert durable(folder) == list(range(60))
    theta = np.concatenate([setup.load().theta(np.array([number])) for number in range(60)])
    late, crashing = int(np.sum(theta > 0.97)), int(np.sum((theta > 0.94) & (theta <= 0.97)))
    counted = np.sum([report.outcomes for report in reports], axis=0).tolist()
    return counted, late * 10 + crashing


def stopped(folder: Path) -> tuple[int, list[int], list[int]]:
    """Stop an agent at work; return the rows in its note, the ids it says are kept, and those in its spools."""
    agent = SimulationAgent("00000", 2, 1.0)
    agent.start(setup_of(folder, 0.05, MODEL.replace("0.97", "2").replace("0.94", "2")))
    first = begin(agent, folder, range(3))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(agent.run, 1, range(3, 10_000))
        while (noted := read_note(folder / "00000.note").kept) < 10:
            assert not answer.done()
            time.sleep(0.05)
        agent.stop()
        report = answer.result()
    agent.close()
    assert report.kept is not None
    assert report.rows == len(report.kept) == sum(report.outcomes)
    assert report.held == 0
    return noted, sorted([*range(first.rows), *report.kept.tolist()]), durable(folder)


def killed(folder: Path) -> list[str]:
    """Kill an agent's process at work, which another replaces; return what is left of all processes in the end."""
    agent = SimulationAgent("00000", 1, 1.0)
    agent.start(setup_of(folder, 0.01, MODEL.replace("0.97", "2").replace("0.94", "2")))
    begin(agent, folder, range(3))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(agent.run, 1, range(3, 100))
        while len(durable(folder)) < 20:
            assert not answer.done()
            time.sleep(0.05)
        os.kill(min(descendants(os.getpid())), signal.SIGKILL)
        report = answer.result()
    agent.close()
    assert report.rows == 97
    assert durable(folder) == list(range(100))
    return [str(pid) for pid in descendants(os.getpid())]


def unloadable(folder: Path) -> str:
    setup = setup_of(folder, 0.0)
    (folder / "model.py").unlink()
    with pytest.raises(PipelineError) as caught:
        SimulationAgent("00000", 1, 1.0).start(setup)
    return str(caught.value)


def apart(function: Any, folder: Path) -> Any:
    """Run a function in a process of its own, which an agent changes for good."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, folder).result()


def test_time_outs_and_crashes_are_settled_on_the_node(tmp_path: Path) -> None:
    counted, bad = apart(all_outcomes, tmp_path)
    assert bad > 10  # both kinds are there
    assert counted[Outcome.TIMEOUT] * 10 + counted[Outcome.FAILED] == bad
    assert sum(counted) == 60


def test_a_stopped_agent_says_which_ids_are_durable(tmp_path: Path) -> None:
    noted, said, there = apart(stopped, tmp_path)
    assert 10 <= noted <= len(there) < 10_000
    assert said == there


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    assert apart(killed, tmp_path) == []


def test_an_agent_that_cannot_load_the_simulator_says_so(tmp_path: Path) -> None:
    assert "cannot load the simulator" in apart(unloadable, tmp_path)


def test_a_block_of_an_agent_is_a_minute_of_work_for_each_process() -> None:
    work = Work(np.arange(10**6), 1, AGENT_TARGET)
    assert work.size(64, 1000, 16) == 16  # nothing is known yet
    work.learn(1, 0.5)
    assert work.size(64, 1000, 16) == 16 * AGENT_TARGET / 0.5
    assert work.size(64, 100, 16) == 16 * 100  # a shard of each
    work.learn(1, 1e4)
    few = Work(np.arange(64), 1, AGENT_TARGET)
    few.learn(1, 1e4)
    assert few.size(64, 1000, 16) == 4
    few.take(60)
    assert few.size(64, 1000, 16) == 16 // PARTS


def test_stop_signals_do_not_end_a_process_that_still_imports(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pipe, process = spawn(POOL, "early", 1.0)
    try:
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
        assert process.poll() is None
        pipe.send((0, "close", ()))
        assert pipe.poll(60)
    finally:
        pipe.close()
        process.kill()
        process.wait()
    assert "Traceback" not in capfd.readouterr().err
