"""Settings of every test: one thread, no Ray usage statistics; those that start clusters take turns."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

CLUSTERS = (  # Ray, SLURM, many processes
    "tests/cluster/",
    *(
        f"tests/pipeline/test_{name}.py"
        for name in (
            *("abc", "cli", "lease", "prior_predictive", "schedule", "simulate", "simulate_chaos"),
            *("simulate_ray_death", "simulation_actor", "store_crash", "submit", "ui"),
        )
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file in one of pytest's processes, and all of `CLUSTERS` in the same one."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = "clusters" if file.startswith(CLUSTERS) else file
        item.add_marker(pytest.mark.xdist_group(group))
