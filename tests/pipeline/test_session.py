"""A driver's session with real actors, whose answers arrive in an order that a test decides."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import simulators
from cluster.preflight import fingerprint
from pipeline.progress import Progress
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES, SimulationActor, WorkerSetup
from pipeline.simulate.calls import CallResult, Worker
from pipeline.simulate.driver import PROBES, Driver
from pipeline.simulate.spec import SimulationSpec
from pipeline.simulate.store_session import StoreSession
from pipeline.simulate.work import Work
from pipeline.stop import Stop
from pipeline.store import Outcome, Store

BUDGET = 12
MODEL = """
from simulators import Uniform, simulator

calls = 0

@simulator(prior={"u": Uniform(0, 1)})
def model(u, rng):
    global calls
    calls += 1
    if calls <= FAILURES:
        raise ValueError("too early")
    return rng.normal(u)
"""


class Near(Worker):
    """An actor in this process: its calls wait until they are wanted."""

    def ask(self, method: str, *arguments: Any) -> Any:
        return partial(getattr(self.handle, method), *arguments)


class ActorPool:
    """Answers calls in the order of a script, then of whoever was asked first.

    Arguments:
        script: number of a worker and the method that its oldest call must have.
    """

    def __init__(self, actors: list[SimulationActor], script: list[tuple[int, str]]) -> None:
        self.workers: list[Worker] = [Near(a.name, a, started=True) for a in actors]
        self.script = script

    def note(self, worker: Worker) -> Path:
        return Path(worker.name + ".note")

    def collect(self, timeout: float) -> Iterator[CallResult]:
        waiting = [worker for worker in self.workers if worker.calls]
        if not waiting:
            return
        oldest = min(waiting, key=lambda worker: next(iter(worker.calls.values())).sent)
        number, expected = self.script.pop(0) if self.script else (None, None)
        worker = oldest if number is None else self.workers[number]
        ask, call = next(iter(worker.calls.items()))
        assert expected in (None, call.method), f"the script expects {expected}, not {call.method}"
        result = ask()
        yield CallResult(worker, worker.calls.pop(ask), result)


def simulate(folder: Path, failures: int, script: list[tuple[int, str]]) -> list[int]:
    """Run a session of two workers to its end; return what it counted, by outcome."""
    (folder / "model.py").write_text(MODEL.replace("FAILURES", str(failures)))
    spec = SimulationSpec(simulators.load(f"{folder}/model.py:model"), 0, 0, 1, None)
    digest = spec.simulator.source_digest()
    setup = WorkerSetup(pickle.dumps(spec), digest, fingerprint(PACKAGES, DISTRIBUTIONS), folder)
    actors = [SimulationActor(name) for name in ("00000", "00001")]
    for actor in actors:
        actor.start(setup)
    identity = {"names": ["u"]}
    with StoreSession(folder / "store", identity, shard_bytes=4096) as session:
        work = Work(np.arange(BUDGET), 1)
        pool = ActorPool(actors, script)
        driver = Driver(spec, session, pool, work, lambda: True, Stop())
        driver.run(Progress("simulate", BUDGET, "simulations"), lambda _: None)
        assert not pool.script
        for actor in actors:
            actor.close()
        session.finish()
    return driver.outcomes.tolist()


def apart(*arguments: Any) -> Any:
    """Run `simulate` in a process of its own, which actors change for good."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(simulate, *arguments).result()


def test_outputs_found_while_another_worker_opens_book_no_unit_twice(tmp_path: Path) -> None:
    failures = PROBES + 1  # all that is probed, so that the store begins without a schema
    found = [(0, "probe"), (1, "probe"), (0, "open"), (0, "run")]  # while worker 1 still opens
    counted = apart(tmp_path, failures, [*found, (1, "open"), (1, "open")])
    assert counted[Outcome.FAILED] == failures
    assert sum(counted) == BUDGET
    store = Store.open(tmp_path / "store")
    assert store.ids().tolist() == list(range(BUDGET))
    assert store.ids(Outcome.FAILED).tolist() == list(range(failures))
    assert store.schema is not None
