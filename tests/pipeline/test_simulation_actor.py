"""The actor by itself, in a process of its own: what it does when its driver is gone."""

from __future__ import annotations

import json
import subprocess
import sys

ORPHAN = """
import json, pickle, sys
from pathlib import Path

import numpy as np

import simulators
from cluster.preflight import fingerprint
from pipeline.errors import PipelineError
from pipeline.simulate.actor import DISTRIBUTIONS, PACKAGES, WorkerSetup, SimulationActor
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Schema, Store, Writer

folder = Path(sys.argv[1])
simulation = SimulationSpec(simulators.load(f"{folder}/model.py:model"), 0, 0, 1, None)
store = Store.create(folder / "store", {"names": ["u"]}, Schema({"x": ("<f8", ())}))
driver = Writer(store)
driver.acquire()
actor = SimulationActor("00000")
digest = simulation.simulator.source_digest()
actor.start(WorkerSetup(pickle.dumps(simulation), digest, fingerprint(PACKAGES, DISTRIBUTIONS), folder))
actor.open(driver.spool_directory, store.schema, 100)
driver.release()  # as its death does
errors = []
for block, ids in enumerate((range(6), range(6, 12), range(12, 18))):  # they queue up at the actor
    try:
        actor.run(block, ids)
    except PipelineError as error:
        errors.append(str(error))
calls = (folder / "calls.txt").read_text().count("\\n")
print(json.dumps({"errors": errors, "calls": calls, "kept": Store.open(store.path).ids().tolist()}))
"""
MODEL = """
import time
from pathlib import Path

from pipeline.store import Store, Writer
from simulators import Uniform, simulator

HERE = Path(__file__).parent

@simulator(prior={"u": Uniform(0, 1)})
def model(u, rng):
    with open(HERE / "calls.txt", "a") as log:
        log.write(f"{u}\\n")
    time.sleep(0.01)
    if (HERE / "calls.txt").read_text().count("\\n") == 3:
        with Writer(Store.open(HERE / "store")):  # the next driver begins its session
            pass
    return rng.normal(u)
"""


def test_an_orphan_loses_the_simulation_in_flight_and_starts_no_other(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"] == [0, 1]
    assert found["calls"] == 3
    assert len(found["errors"]) == 3
    assert all("taken over" in error for error in found["errors"])
