"""Why a worker died: the traceback of its last simulation, without the frames of the pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.simulate.death import CRASHES, KILLS, Death, crash_reason, read_death, simulator_part
from pipeline.store import Outcome

WORKER = """
import sys
from pathlib import Path

import numpy as np

import simulators
from pipeline.simulate.note import Notebook
from pipeline.simulate.spec import SimulationSpec

folder = Path(sys.argv[1])
spec = SimulationSpec(simulators.load(f"{folder}/model.py:model"), 0, 0, 1, None)
book = Notebook(folder / "a.note", 0.5)
book.begin(0)
book.running(0)
spec.run(np.array([0]))
"""
MODEL = """
import faulthandler
import time

from simulators import Uniform, simulator

@simulator(prior={"u": Uniform(0, 1)})
def model(u, rng):
    END
"""


@pytest.mark.parametrize(
    ("end", "death", "head"),
    [
        ("time.sleep(60)", Death.TIMEOUT, "Timeout ("),
        ("faulthandler._sigsegv()", Death.CRASH, "Fatal Python error: Segmentation fault"),
    ],
)
def test_a_traceback_ends_where_the_pipeline_calls_the_simulator(
    tmp_path: Path, end: str, death: Death, head: str
) -> None:
    (tmp_path / "model.py").write_text(MODEL.replace("END", end))
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    found, dump = read_death(tmp_path / "a.note")
    assert found is death, done.stderr
    part = simulator_part(dump)
    assert part.startswith(head)
    assert 'model.py", line' in part
    assert "/pipeline/" in dump
    assert "/pipeline/" not in part
    if death is Death.CRASH:
        assert crash_reason(dump) == "Segmentation fault"


def test_a_simulation_is_tried_again_until_it_has_ended_its_process_often_enough() -> None:
    assert Death.TIMEOUT.outcome(1) is Outcome.TIMEOUT
    for death, most in ((Death.CRASH, CRASHES), (Death.KILLED, KILLS)):
        assert death.outcome(most - 1) is None
        assert death.outcome(most) is Outcome.FAILED
