"""Settings of every test: one thread, no Ray usage statistics; those that start clusters take turns.

A test that starts clusters or processes with time limits may fail once because the machine is busy: it is repeated
once, and the summary shows the first failure. A second failure is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: other tests would starve them
os.environ.setdefault("MPLBACKEND", "Agg")

CLUSTERS = (  # SLURM, many simulation actors, kills
    "tests/cluster/",
    "tests/pipeline/test_lease.py",
    "tests/pipeline/test_lease_stage.py",
    "tests/pipeline/test_schedule.py",
    "tests/pipeline/test_simulate.py",
    "tests/pipeline/test_simulate_chaos.py",
    "tests/pipeline/test_simulate_gpus.py",
    "tests/pipeline/test_simulate_ray_death.py",
    "tests/pipeline/test_simulation_actor.py",
    "tests/pipeline/test_store_crash.py",
    "tests/pipeline/test_submit.py",
    "tests/pipeline/test_torture.py",
    "tests/pipeline/test_train_workers.py",
)
RUNS = (  # whole runs and ABC, each with a Ray of its own
    "tests/pipeline/test_abc.py",
    "tests/pipeline/test_abc_rows.py",
    "tests/pipeline/test_cli.py",
    "tests/pipeline/test_prior_predictive.py",
    "tests/pipeline/test_study.py",
    "tests/pipeline/test_ui.py",
    "tests/test_document_examples.py",
)
PROCESSES = (  # of their own, with signals and time limits
    "tests/pipeline/test_check.py",
    "tests/pipeline/test_gone.py",
    "tests/pipeline/test_odd.py",
    "tests/pipeline/test_refine_chaos.py",
    "tests/pipeline/test_track.py",
    "tests/sbiflow/test_run.py",
    "tests/simulators/test_program.py",
)


def group(nodeid: str) -> str:
    """Return what runs in one process of pytest, in turn: a file, or all of `CLUSTERS` or `RUNS`."""
    file = nodeid.partition("::")[0]
    if file.startswith(CLUSTERS):
        return "clusters"
    return "runs" if file.startswith(RUNS) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with clusters and runs, which take longest; repeat a test of processes that failed."""
    items.sort(key=lambda item: ["clusters", "runs", group(item.nodeid)].index(group(item.nodeid)))
    for item in items:
        if item.nodeid.startswith(CLUSTERS + RUNS + PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out groups in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.fixture(autouse=True)
def float_errors() -> Iterator[None]:
    """Give numpy its settings back, which odd simulators change."""
    with np.errstate():
        yield
