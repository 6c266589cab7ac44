"""Parameters that no tumour can have become rows that say why, at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import simulators
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Outcome

PRIOR = {
    "division_rate": {"name": "uniform", "low": 0.01, "high": 0.011},
    "initial_spheroid_radius": {"name": "uniform", "low": 1.0, "high": 1.1},
    "initial_quiescent_cell_fraction": {"name": "uniform", "low": 0.5, "high": 0.6},
    "division_depth": {"name": "uniform", "low": 10.0, "high": 11.0},
    "ecm_production_rate": {"name": "uniform", "low": 0.001, "high": 0.002},
    "ecm_degradation_rate": {"name": "uniform", "low": 0.001, "high": 0.002},
    "ecm_division_threshold": {"name": "uniform", "low": 0.01, "high": 0.02},
}


def row(name: str, low: float, high: float) -> Any:
    prior = PRIOR | {name: {"name": "uniform", "low": low, "high": high}}
    simulator = simulators.load("tumor_spheroid", prior=prior)
    return SimulationSpec(simulator, 1, 0, 1, timeout=20.0).run(np.array([0]))


def test_a_good_row_is_ok() -> None:
    assert row("division_rate", 0.01, 0.011).outcome[0] == Outcome.OK


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("initial_spheroid_radius", 51.0, 52.0),  # half of the domain is 50
        ("initial_spheroid_radius", -2.0, -1.0),
        ("division_rate", 5.0, 1e9),
        ("division_rate", -1.0, -0.5),
        ("initial_quiescent_cell_fraction", 1.1, 2.0),
        ("division_depth", 1e-9, 1e-8),
        ("ecm_production_rate", 1e9, 1e10),
        ("ecm_degradation_rate", -1.0, -0.5),
        ("ecm_division_threshold", -1.0, -0.5),
    ],
)
def test_a_bad_row_names_parameter_value_and_range(name: str, low: float, high: float) -> None:
    began = time.monotonic()
    rows = row(name, low, high)
    assert rows.outcome[0] == Outcome.FAILED
    (failure,) = rows.failures
    value = float(rows.theta[0, list(PRIOR).index(name)])
    assert f"{name}={value!r} is not in" in failure.message
    assert time.monotonic() - began < 20


def test_nan_is_refused_by_name() -> None:
    simulator = simulators.load("tumor_spheroid")
    theta = simulator.prior.sample(np.random.default_rng(0), 1)[0]
    for d, name in enumerate(simulator.prior.names):
        bad = theta.copy()
        bad[d] = np.nan
        with pytest.raises(ValueError, match=f"{name}=.*nan.* is not in"):
            simulator.simulate(bad, np.random.default_rng(0))
