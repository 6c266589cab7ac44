"""Settings of every test: one thread, no Ray usage statistics; those that start clusters take turns."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

CLUSTERS = (  # Ray, SLURM, many processes
    "tests/cluster/",
    "tests/pipeline/test_abc.py",
    "tests/pipeline/test_cli.py",
    "tests/pipeline/test_lease.py",
    "tests/pipeline/test_prior_predictive.py",
    "tests/pipeline/test_schedule.py",
    "tests/pipeline/test_simulate.py",
    "tests/pipeline/test_simulate_chaos.py",
    "tests/pipeline/test_simulate_ray_death.py",
    "tests/pipeline/test_simulation_actor.py",
    "tests/pipeline/test_store_crash.py",
    "tests/pipeline/test_submit.py",
    "tests/pipeline/test_ui.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file in one of pytest's processes, and all of `CLUSTERS` in the same one."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = "clusters" if file.startswith(CLUSTERS) else file
        item.add_marker(pytest.mark.xdist_group(group))
