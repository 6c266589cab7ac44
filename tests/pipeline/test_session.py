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
from cluster.preflight import facts
from pipeline.progress import Progress
from pipeline.simulation.actor import DISTRIBUTIONS, PACKAGES, Job, SimulationActor
from pipeline.simulation.calls import Answer, Worker
from pipeline.simulation.ledger import Ledger
from pipeline.simulation.session import PROBES, Session
from pipeline.simulation.task import Simulation
from pipeline.simulation.work import Work
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


class Crew:
    """Answers calls in the order of a script, then of whoever was asked first.

    Arguments:
        script: number of a worker and the method that its oldest call must have.
    """

    def __init__(self, actors: list[SimulationActor], script: list[tuple[int, str]]) -> None:
        self.workers: list[Worker] = [Near(a.name, a, started=True) for a in actors]
        self.script = script

    def note(self, worker: Worker) -> Path:
        return Path(worker.name + ".note")

    def collect(self, timeout: float) -> Iterator[Answer]:
        waiting = [worker for worker in self.workers if worker.calls]
        if not waiting:
            return
        oldest = min(waiting, key=lambda worker: next(iter(worker.calls.values())).sent)
        number, expected = self.script.pop(0) if self.script else (None, None)
        worker = oldest if number is None else self.workers[number]
        ask, call = next(iter(worker.calls.items()))
        assert expected in (None, call.method), f"the script expects {expected}, not {call.method}"
        result = ask()
        yield Answer(worker, worker.calls.pop(ask), result)


def simulate(folder: Path, failures: int, script: list[tuple[int, str]]) -> list[int]:
    """Run a session of two workers to its end; return what it counted, by outcome."""
    (folder / "model.py").write_text(MODEL.replace("FAILURES", str(failures)))
    simulation = Simulation(simulators.load(f"{folder}/model.py:model"), 0, 0, 1, None)
    digest = simulation.simulator.source_digest()
    job = Job(pickle.dumps(simulation), digest, facts(PACKAGES, DISTRIBUTIONS), folder)
    actors = [SimulationActor(name) for name in ("00000", "00001")]
    for actor in actors:
        actor.start(job)
    identity = {"names": ["u"]}
    with Ledger(folder / "store", identity, shard_bytes=4096) as ledger:
        work = Work(np.arange(BUDGET), 1)
        crew = Crew(actors, script)
        session = Session(simulation, ledger, crew, work, lambda: True, Stop())
        session.run(Progress("simulate", BUDGET, "simulations"), lambda _: None)
        assert not crew.script
        for actor in actors:
            actor.close()
        ledger.finish()
    return session.outcomes.tolist()


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
