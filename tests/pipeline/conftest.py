"""A small finished run: real simulations with failures, a trained posterior; no Ray."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as configuration
from pipeline.config import Config, simulator_of
from pipeline.events import recorder
from pipeline.run import STREAMS, RunDirectory
from pipeline.simulate.spec import SimulationSpec, schema_of
from pipeline.stop import Stop
from pipeline.store import Outcome, Spool, Store, Writer

SIMULATOR = '''
import numpy as np
from simulators import Normal, simulator


def exact(x, n, rng):
    """theta ~ N(0, 1), x = theta + N(0, 1/4): theta | x ~ N(0.8 x, 0.2)."""
    return 0.8 * x["x"] + np.sqrt(0.2) * rng.normal(size=(n, 2))


def wide(x, n, rng):
    return 2 * exact(x, n, rng)


def log_likelihood(theta, x):
    return -2 * np.sum((x["x"] - theta) ** 2, axis=1) - np.log(2 * np.pi / 4)


@simulator(
    prior={"a": Normal(0, 1), "b": Normal(0, 1)},
    references={"exact": exact, "wide": wide},
    log_likelihood=log_likelihood,
)
def gaussian(a, b, rng):
    if a > 1.5:
        raise RuntimeError(f"a = {a:.2f} is too large")
    if b < -2:
        return {"x": np.array([np.nan, 0.0])}
    return {"x": np.array([a, b]) + 0.5 * rng.normal(size=2)}
'''


@dataclass(frozen=True)
class Finished:
    """A run and its configuration; `log` is the journal's."""

    run: RunDirectory
    config: Config

    def configure(self, *words: str) -> Config:
        return configuration.build(configuration.override(self.config.plain(), words))

    def log(self, stage: str) -> Any:
        return recorder(self.run, stage)


def simulate(config: Config, run: RunDirectory) -> None:
    """Fill both stores in this process."""
    simulator = simulator_of(config)
    for number, (stream, budget) in enumerate(
        zip(STREAMS, (config.budget, config.test), strict=True)
    ):
        simulation = SimulationSpec(simulator, config.seed, number, 1, None)
        rows = [simulation.run(np.array([i])) for i in range(budget)]
        schema = schema_of(next(r for r in rows if r.outcome[0] == Outcome.OK), simulator.ragged)
        identity = {"simulator": simulator.identity(), "stream": stream, "seed": config.seed}
        store = Store.create(run.store(stream), identity, schema)
        with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 1000) as spool:
            for row in rows:
                spool.append(row)
        recorder(run, "simulate")(
            {
                **{"event": "simulated", "stream": stream, "budget": budget},
                **{"counts": store.counts(budget), "seconds": 1.5},
            }
        )


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from pipeline.stages import begin
    from pipeline.train.stage import train

    folder = tmp_path_factory.mktemp("finished")
    (folder / "gaussian.py").write_text(SIMULATOR)
    config = configuration.build(
        {
            "name": "small",
            "simulator": f"{folder / 'gaussian.py'}:gaussian",
            "budget": 300,
            "test": 30,
            "max_failed": 0.3,
            "estimator": {"name": "cmpe", "arguments": {"width": 32, "depth": 1}},
            "train": {"steps": 150, "threads": 1},
            "evaluate": {"draws": 150, "sampling_steps": 3},
        }
    )
    run = RunDirectory(folder / "run")
    configuration.save(config, run)
    begin(config, run, "simulate")({"event": "start"})
    simulate(config, run)
    train(config, run, stop=Stop(), record=begin(config, run, "train"))
    return Finished(run, config)


@pytest.fixture
def finished(_finished: Finished, tmp_path: Path) -> Finished:
    """A trained run that is not evaluated yet, for this test alone."""
    shutil.copytree(_finished.run.path, tmp_path / "run")
    return Finished(RunDirectory(tmp_path / "run"), _finished.config)


@pytest.fixture(scope="session")
def _evaluated(_finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from pipeline.evaluate.stage import evaluate
    from pipeline.report.stage import report

    path = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(_finished.run.path, path)
    done = Finished(RunDirectory(path), _finished.config)
    evaluate(done.config, done.run, stop=Stop(), record=done.log("evaluate"))
    report(done.run)
    return done


@pytest.fixture
def evaluated(_evaluated: Finished, tmp_path: Path) -> Finished:
    """A run with an evaluation and a report, for this test alone."""
    shutil.copytree(_evaluated.run.path, tmp_path / "run")
    return Finished(RunDirectory(tmp_path / "run"), _evaluated.config)
