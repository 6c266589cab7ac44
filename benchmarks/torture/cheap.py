"""What makes a trial quick: modules that are imported already, and cheap stand-ins for what is not the point.

Simulation by leases instead of Ray, by workers that are forked; pictures as digests of what they would
show; few epochs of the classifiers behind C2ST, few repetitions behind the bands of calibration.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np

EPOCHS = 30  # of the classifiers behind C2ST
REPETITIONS = 100  # of the nulls behind the calibration's bands
FIRST = [
    "pipeline.cli",
    "pipeline.stages",
    "pipeline.show",
    "pipeline.train.stage",
    "pipeline.evaluate.stage",
    "pipeline.report.stage",
    "pipeline.track.stage",
    "pipeline.infer.sample",
    "pipeline.simulate.leases.stage",
    "pipeline.simulate.leases.shared_budget",
    "pipeline.track.history",
    "evaluation.tracking.local",
    "evaluation.tracking.model",
    "evaluation.plots",
    "evaluation.simulation_plots",
    "evaluation.c2st",
    "evaluation.calibration",
    "estimators",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "scipy.stats",
    "scipy.linalg.cython_blas",
    "sklearn.model_selection",
    "numba",
    "zarr",
    "h5py",
]


def warm(modules: Sequence[str] = ()) -> None:
    """Import what commands need, and what children report to have imported."""
    for name in modules or FIRST:
        top = name.partition(".")[0]
        if name not in sys.modules and (top in sys.modules or importlib.util.find_spec(top)):
            with suppress(Exception):
                importlib.import_module(name)
    import torch
    from mlflow.store.db import utils

    torch.set_num_threads(1)
    if not hasattr(utils._get_latest_schema_revision, "cache_info"):  # of files that never change
        utils._get_latest_schema_revision = lru_cache(utils._get_latest_schema_revision)
        utils._get_latest_schema_revision()
    if not hasattr(importlib.metadata.entry_points, "cache_info"):
        importlib.metadata.entry_points = lru_cache(importlib.metadata.entry_points)


def cheap(real: Sequence[str] = ()) -> None:
    """Replace what is dear and not the point; `real` names what stays as it is: ray, workers, pictures."""
    from evaluation import calibration, classifier
    from pipeline import stages
    from pipeline.simulate import process_pool as processes

    for name in ("band", "null_max_ece"):
        setattr(calibration, name, partial(getattr(calibration, name), repetitions=REPETITIONS))
    classifier.train = partial(classifier.train, max_epochs=EPOCHS)
    if "ray" not in real:
        stages.simulate = _share
    if "workers" not in real and hasattr(processes.ProcessPool, "_start"):
        processes.ProcessPool._start = lambda self, connection, name: Fork(connection, name)
    if "pictures" not in real:
        _draw_digests()


def _share(config: Any, run: Any, stop: Any, retry: str | None = None, **other: Any) -> Any:
    from pipeline import stages

    return stages.simulate_shared(config, run, stop, retry)


def _draw_digests() -> None:
    from evaluation import plots, simulation_plots

    for module in (plots, simulation_plots):
        for name, function in vars(module).items():
            if (
                callable(function)
                and getattr(function, "__module__", "") == module.__name__
                and name not in ("svg", "grid", "title", "wrapped")
                and not name.startswith("_")
            ):
                setattr(module, name, partial(_digest_of, name))
    plots.svg = lambda figure: (
        f'<svg xmlns="http://www.w3.org/2000/svg"><text>{figure}</text></svg>'
    )


def _digest_of(name: str, *arguments: Any, **named: Any) -> str:
    shown = [] if name == "seconds" else [arguments, sorted(named.items())]
    return f"{name} {hashlib.sha256(_bytes(shown)).hexdigest()[:16]}"


def _bytes(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return value.tobytes() + str(value.shape).encode()
    if isinstance(value, dict):
        return b"".join(
            str(k).encode() + _bytes(v) for k, v in sorted(value.items()) if k != "seconds"
        )
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(map(_bytes, value)) + b"]"
    return repr(value).encode()


class Fork:
    """A simulation worker that is forked instead of started: the interpreter is there already."""

    def __init__(self, connection: Any, name: str) -> None:
        self.pid = os.fork()
        self.returncode: int | None = None
        if self.pid == 0:
            try:
                from pipeline.simulate.process_pool import SimulationActor, serve

                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                    signal.signal(number, signal.SIG_DFL)
                serve(connection, SimulationActor(name))
                os._exit(0)
            finally:
                os._exit(71)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, code = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(code) if found else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.001)
        return self.returncode or 0

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    terminate = kill
