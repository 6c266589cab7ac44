"""The simulator of a run that was defined in a notebook or a script: kept in the run, by value.

`simulator.pickle` is read when the simulator is used. It is code, as a simulator's file is: open runs of people
that you trust.
"""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle

import simulators
from pipeline.errors import UsageError
from pipeline.files import read_bytes, write_bytes
from pipeline.run import RunDirectory
from simulators.cell import PLACE

FILE = "simulator.pickle"


def define(simulator: Any) -> str:
    """Let this process find a simulator that was defined in a notebook; return its name in a configuration."""
    return simulators.define(simulator.name, lambda: simulator)


def keep(run: RunDirectory, simulator: Any) -> None:
    """Keep the simulator for other processes."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_bytes(run.path / FILE, cloudpickle.dumps(simulator))


def restore(run: RunDirectory, name: str) -> None:
    """Let this process find the simulator of a run where it is kept by value."""
    place, _, attribute = name.rpartition(":")
    if place == PLACE and (run.path / FILE).exists():
        simulators.define(attribute, lambda: _read(run))


def _read(run: RunDirectory) -> Any:
    path = run.path / FILE
    try:
        return pickle.loads(read_bytes(path))
    except (AttributeError, ImportError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}. Open the run where the simulator is defined, by "
            "sbiflow.Run(path, simulator=...)"
        ) from error
