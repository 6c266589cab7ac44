"""`sbiflow invert`: a run without outputs is a prior; draws for measurements; methods on test simulations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as configuration
from pipeline.config import Config, simulator_of
from pipeline.errors import DamagedError, PipelineError, UsageError
from pipeline.events import read
from pipeline.infer.sample import sample
from pipeline.inversions import inversions
from pipeline.invert.problem import InverseProblem, read_measurement
from pipeline.invert.stage import invert, measure
from pipeline.report.stage import report
from pipeline.run import RunDirectory
from pipeline.simulate.setup import identity
from pipeline.simulate.spec import SimulationSpec, schema_of
from pipeline.stop import Stop
from pipeline.store import Spool, Store, Writer
from pipeline.track.history import History
from tests.pipeline.conftest import Finished

SIMULATOR = """
from simulators import DataPrior, simulator


@simulator(prior=DataPrior({path!r}, held_out=40), batched=True)
def clusters(theta):
    return {{}}
"""
OPERATORS = """
import torch
from estimators.inverse import operator


@operator(sigma=0.3)
def length(theta):
    return theta.norm(dim=1, keepdim=True)


@operator(sigma=0.3)
def broken(theta):
    return theta / (theta.abs() > 0.5)
"""


def simulate(config: Config, run: RunDirectory) -> None:
    """Fill both stores in this process."""
    for number, budget in enumerate((config.budget, config.test)):
        spec = SimulationSpec(simulator_of(config), config.seed, number, 1, None)
        rows = [spec.run(np.array([i])) for i in range(budget)]
        schema = schema_of(rows[0], frozenset())
        store = Store.create(run.store(("train", "test")[number]), identity(spec), schema)
        with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 1000) as spool:
            for row in rows:
                spool.append(row)


FEW = ["moves=1", "final_moves=1"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A trained and evaluated prior of clusters on a circle."""
    from pipeline.evaluate.stage import evaluate
    from pipeline.stages import begin
    from pipeline.train.stage import train

    folder = tmp_path_factory.mktemp("prior")
    rng = np.random.default_rng(0)
    angle = rng.integers(5, size=500) * 2 * np.pi / 5
    points = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.2 * rng.normal(size=(500, 2))
    np.save(folder / "points.npy", points)
    (folder / "clusters.py").write_text(SIMULATOR.format(path=str(folder / "points.npy")))
    (folder / "operators.py").write_text(OPERATORS)
    network = {"width": 32, "depth": 1, "members": 1, "replay_size": 64}
    config = configuration.build(
        {
            "name": "clusters",
            "simulator": f"{folder / 'clusters.py'}:clusters",
            "budget": 400,
            "test": 20,
            "estimator": {"name": "cmpe_distilled", "arguments": network},
            "train": {"steps": 150, "threads": 1},
            "evaluate": {"draws": 30, "sampling_steps": 1, "metrics": ["rmse", "sbc"]},
        }
    )
    run = RunDirectory(folder / "run")
    configuration.save(config, run)
    begin(config, run, "simulate")({"event": "start"})
    simulate(config, run)
    train(config, run, stop=Stop(), record=begin(config, run, "train"))
    evaluate(config, run, stop=Stop(), record=begin(config, run, "evaluate"))
    return Finished(run, config)


def problem(prior: Finished, *words: str, name: str = "length", method: str = "cm_smc") -> Any:
    place = f"{prior.run.path.parent / 'operators.py'}:{name}"
    return InverseProblem.of(prior.run, place, method, words)


def test_draws_of_the_prior_are_evaluated(prior: Finished) -> None:
    from pipeline.results import Results, latest_training

    draws = Results(prior.run, latest_training(prior.run)).draws()
    assert draws is not None
    assert draws["draws_1"].shape == (20, 30, 2)
    assert len(np.unique(draws["draws_1"][:, 0, 0])) == 20  # each test set has its own


@pytest.mark.parametrize("single", [True, False])
def test_draws_for_measurements_are_written_with_a_page(
    prior: Finished, tmp_path: Path, single: bool
) -> None:
    y = np.array([2.0]) if single else np.array([[2.0], [1.8]])
    np.savez(tmp_path / "y.npz", y=y)
    out = tmp_path / "draws.npz"
    shape = invert(problem(prior, *FEW), read_measurement(tmp_path / "y.npz"), 30, 0, out)
    assert shape == ((30, 2) if single else (2, 30, 2))
    with np.load(out) as file:
        assert file["theta"].shape == shape
        assert file["names"].tolist() == ["theta[0]", "theta[1]"]
        assert file["passes"] > 1
        assert file["least_ess"].shape == (1 if single else 2,)
        first = file["theta"]
    page = out.with_suffix(".html").read_text()
    assert "data:image/svg+xml" in page
    invert(problem(prior, *FEW), y, 30, 0, out)
    with np.load(out) as file:
        assert np.array_equal(file["theta"], first)


def test_a_method_is_measured_once_and_reported(prior: Finished) -> None:
    record = prior.log("invert")
    result = measure(problem(prior, *FEW), 4, 20, 0, record)
    assert set(result["metrics"]) == {"rmse_of_mean", "rmse_of_draws", "coverage_90", "misfit"}
    (one,) = inversions(prior.run)
    arrays = one.arrays()
    low, high = np.quantile(arrays["draws"], [0.05, 0.95], axis=1)
    inside = ((arrays["theta"] >= low) & (arrays["theta"] <= high)).mean()
    assert result["metrics"]["coverage_90"]["mean"] == pytest.approx(inside, abs=1e-6)
    count = len(read(prior.run).events)
    assert measure(problem(prior, *FEW), 4, 20, 0, record) == result
    assert len(read(prior.run).events) == count
    text = report(prior.run).read_text()
    assert "Inverse problems" in text
    assert "cm_smc" in text
    _, record_, *_ = History(prior.run, prior.run.path, whole=False).records()
    assert any(point.name.startswith("invert/cm_smc") for point in record_.points)
    (one.folder / "draws.npz").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"draws\.npz is not the one that was written"):
        one.metrics()
    assert "is not the one that was written" in report(prior.run).read_text()


def test_what_does_not_fit_is_refused(prior: Finished, finished: Finished, tmp_path: Path) -> None:
    out, y = tmp_path / "draws.npz", np.array([2.0])

    def solve(asked: Any, measurement: np.ndarray = y) -> None:
        invert(asked, measurement, 5, 0, out)

    with pytest.raises(UsageError, match=r"y has shape \(3,\); operator 'length' measures \(1,\)"):
        solve(problem(prior), np.zeros(3))
    with pytest.raises(UsageError, match=r"--operator: .* has no 'lenght'; did you mean 'length'"):
        solve(problem(prior, name="lenght"))
    with pytest.raises(
        UsageError, match="--method: unknown method 'cm_smcc'; did you mean 'cm_smc'"
    ):
        solve(problem(prior, method="cm_smcc"))
    with pytest.raises(UsageError, match="--method: method 'dps' has no argument 'moves'"):
        solve(problem(prior, "moves=3", method="dps"))
    with pytest.raises(UsageError, match="'downsample' cannot take 2 parameters"):
        solve(replace(problem(prior), operator_name="downsample"))
    with pytest.raises(PipelineError, match="operator 'broken' gives NaN"):
        solve(problem(prior, name="broken"), np.ones(2))
    with pytest.raises(UsageError, match="is no prior: estimator 'cmpe' has no denoiser"):
        solve(replace(problem(prior), run=finished.run))
    with pytest.raises(UsageError, match="'fast' is not an override: write key=value"):
        problem(prior, "fast")
    with pytest.raises(UsageError, match="--test 50: the run has 20 test simulations"):
        measure(problem(prior), 50, 5, 0, prior.log("invert"))
    with pytest.raises(UsageError, match="has no observation: it is a prior, see `sbiflow invert`"):
        sample(prior.run, {"x": y}, 5, None, 0, out)
    assert not out.exists()
