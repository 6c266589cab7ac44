"""What ABC keeps of its simulations, without Ray: parameters of those that failed, rows, and a repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyabc
from pyabc.inference_util import create_simulate_from_prior_function

from pipeline.abc.kept import Kept
from pipeline.abc.model import AbcModel, AbcPrior, SimulationFailed
from pipeline.abc.result import ParticleResult
from pipeline.abc.sampler import _seed, drawn
from pipeline.abc.stored import StoredRows
from pipeline.simulate.spec import SimulationSpec
from pipeline.store import Outcome, Store, verify
from simulators import LogUniform, Uniform, simulator

SEED = 3


@simulator(prior={"a": Uniform(0, 1), "b": LogUniform(0.1, 10)}, ragged=["y"])
def troubled(a, b, rng):
    """Fails where a > 0.6; the length of y varies."""
    if a > 0.6:
        raise ValueError("a is too large")
    return {"x": np.array([a, b]) + 0.05 * rng.standard_normal(2), "y": np.ones(1 + int(9 * a))}


def simulate_one() -> Any:
    """Return pyABC's function that simulates one particle from the prior."""
    return create_simulate_from_prior_function(
        pyabc.RV("rv_discrete", values=([0], [1])),
        [AbcPrior(troubled.prior)],
        [AbcModel(troubled, None)],
        pyabc.inference.smc.identity,
    )


def simulated(n: int) -> list[ParticleResult]:
    results, one = [], simulate_one()
    for number in range(n):
        _seed(SEED, -1, number)
        try:
            results.append(ParticleResult(Outcome.OK, True, one(), seconds=0.5))
        except SimulationFailed as error:
            results.append(ParticleResult(error.outcome, message=error.message, seconds=0.5))
    return results


def kept_in(folder: Path) -> Kept:
    identity = {"simulator": troubled.identity(), "names": ["a", "b"], "stream": "abc-test"}
    stored = StoredRows(folder / "store", identity, frozenset(troubled.ragged))
    return Kept(folder / "generations", AbcPrior(troubled.prior), stored)


def settled(folder: Path, results: list[ParticleResult]) -> Kept:
    kept = kept_in(folder)
    kept.write(-1, dict(enumerate(results)))
    kept.settle(-1, results, lambda number: drawn(simulate_one(), SEED, -1, number))
    return kept


def test_the_parameters_of_a_simulation_are_found_without_it() -> None:
    """They are those of the simulation, and the global generator goes on as if nothing had been drawn."""
    one = simulate_one()
    for number, result in enumerate(simulated(20)):
        np.random.seed(5)
        theta = drawn(one, SEED, -1, number)
        after = np.random.random()
        np.random.seed(5)
        assert after == np.random.random()
        if result.particle is not None:
            np.testing.assert_array_equal(
                theta, AbcPrior(troubled.prior).coordinates.theta(result.particle.parameter)
            )
        else:
            assert theta[0] > 0.6


def test_failed_simulations_are_rows_with_parameters_and_reason(tmp_path: Path) -> None:
    results = simulated(40)
    kept = settled(tmp_path, results)
    store = Store.open(tmp_path / "store")
    assert verify(store) == []
    counts = store.counts()
    assert counts["done"] == 40
    assert counts["ok"] == sum(r.outcome == Outcome.OK for r in results)
    assert 5 < counts["failed"] < 30
    rows = store.rows(np.arange(40))
    failed = rows.outcome == Outcome.FAILED
    assert (rows.theta[failed, 0] > 0.6).all()
    assert (rows.theta[~failed, 0] <= 0.6).all()
    assert "a is too large" in rows.failures[0].message
    expected = troubled.prior.log_prob(rows.theta)
    np.testing.assert_allclose(rows.x["proposal_log_prob"], expected)
    np.testing.assert_array_equal(rows.seconds, np.float32(0.5))
    assert kept.generations() == [(-1, 0, 40)]


def test_a_repeat_finds_the_same_particles_and_simulates_what_is_lost(tmp_path: Path) -> None:
    results = simulated(40)
    kept = settled(tmp_path, results)
    again = kept.read(-1)
    assert sorted(again) == list(range(40))
    for number, result in again.items():
        assert result.outcome == results[number].outcome
        if result.particle is None:
            continue
        before = results[number].particle
        assert before is not None
        assert result.particle.parameter == before.parameter
        for name in ("x", "y"):
            np.testing.assert_array_equal(result.particle.sum_stat[name], before.sum_stat[name])

    digest = Store.open(tmp_path / "store").digest()
    lost = next(path for path in (tmp_path / "store" / "shards").iterdir())
    for file in sorted(lost.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    lost.rmdir()
    left = kept.read(-1)
    assert {number for number, r in left.items() if r.particle is not None} == set()
    kept.settle(-1, results, lambda number: drawn(simulate_one(), SEED, -1, number))
    assert Store.open(tmp_path / "store").digest() == digest


def test_rows_have_the_form_of_other_simulations(tmp_path: Path) -> None:
    settled(tmp_path, simulated(40))
    schema = Store.open(tmp_path / "store").schema
    assert schema is not None
    spec = SimulationSpec(troubled, 0, 0, 1, None)
    own = next(rows for i in range(20) if (rows := spec.run(np.array([i]))).x)
    assert set(schema.arrays) == {*own.x, "proposal_log_prob"}
    assert schema.ragged == {"y"}
