"""A run that is deleted while a stage works on it ends the stage, and does not come back half-way."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import config as configuration
from pipeline.errors import PipelineError, UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.leases import stage
from pipeline.stop import Stop
from pipeline.train.stage import train

SLOW = """
import time
from simulators import Uniform, simulator


@simulator(prior={"a": Uniform(0, 1)})
def slow(a, rng):
    time.sleep(0.1 if a < 0.5 else 1.0)
    return {"x": [a, rng.normal()]}
"""


@contextmanager
def deleted(path: Path, when: Callable[[], bool]) -> Iterator[None]:
    """Delete a folder once something is so."""

    def delete() -> None:
        while not when():
            time.sleep(0.02)
        while path.exists():  # who writes meanwhile makes it fail half-way, as `rm -r` would
            shutil.rmtree(path, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    yield
    thread.join()


def test_simulations_of_a_deleted_run_end(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    config = configuration.build(
        {
            "name": "slow",
            "simulator": f"{tmp_path / 'slow.py'}:slow",
            "budget": 100_000,
            "test": 0,
            "simulate": {"workers": 1},
        }
    )
    run = RunDirectory(tmp_path / "run")
    spools = run.store("train") / "sessions"
    with (
        deleted(run.path, lambda: any(spools.glob("*/*.spool"))),
        pytest.raises(PipelineError, match="run is gone: it was deleted or moved while this"),
        run.lock(shared=True),
    ):
        stage.simulate(config, run, stop=Stop())
    assert not run.path.exists()


def test_training_in_a_deleted_run_ends(finished: Any) -> None:
    config = finished.configure("train.steps=100000000", "train.checkpoint_seconds=0.1")
    states = finished.run.path / "trainings"
    with (
        deleted(finished.run.path, lambda: any(states.glob("*/state.pt"))),
        pytest.raises(PipelineError, match="run is gone: it was deleted or moved while this"),
        finished.run.lock(),
    ):
        train(config, finished.run, stop=Stop())
    assert not finished.run.path.exists()


def test_an_error_because_the_run_is_gone_says_so(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")

    def work(delete: bool, error: Exception) -> None:
        with run.lock():
            if delete:
                shutil.rmtree(run.path)
            raise error

    with pytest.raises(PipelineError, match="run is gone"):
        work(delete=True, error=FileNotFoundError("store.json"))
    with pytest.raises(ValueError, match="another"):
        work(delete=False, error=ValueError("another"))
    shutil.rmtree(run.path)
    with pytest.raises(UsageError, match="wrong"):
        work(delete=True, error=UsageError("wrong"))
