"""The Python interface, from a simulator in a script to an answer: a posterior that is known in closed form."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sbiflow
from pipeline.errors import UsageError
from pipeline.files import read_document
from sbiflow import Normal, Run, simulator

PRIOR = {"a": Normal(0, 1), "b": Normal(0, 1)}
NOISE = 0.5  # theta | x ~ N(0.8 mean(x), 0.2 / ...): each parameter is measured five times
X = np.concatenate([np.full(5, 0.6), np.full(5, -0.4)])
SETTINGS: dict[str, Any] = {
    "budget": 600,
    "test": 100,
    "estimator": {"name": "nsf", "arguments": {"transforms": 2, "hidden": [32, 32]}},
    "train": {"steps": 400, "learning_rate": 3e-3},
    "evaluate": {"metrics": ["ece"], "draws": 100},
}


def shifted(theta: float, rng: np.random.Generator) -> np.ndarray:
    return theta + NOISE * rng.normal(size=5)


@simulator(prior=PRIOR)
def gaussian(a: float, b: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": np.concatenate([shifted(a, rng), shifted(b, rng)])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    def local(a: float, b: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.concatenate([shifted(a, rng), shifted(b, rng)])}

    path = tmp_path_factory.mktemp("runs") / "mine"
    run = Run(path, simulator=local, prior=PRIOR, **SETTINGS)
    assert not path.exists()  # the first stage makes it
    assert "600/600" in repr(run.simulate())
    assert run.train()["steps"] == 400
    return run


@pytest.fixture(scope="module")
def answer(run: Run) -> Any:
    return run.infer(X, 4000)


def test_an_answer_is_that_of_the_exact_posterior(answer: Any) -> None:
    """theta | x ~ N(20 mean(x) / 21, 1 / 21)."""
    table = answer.to_dataframe()
    assert table["mean"].to_numpy() == pytest.approx([0.6 * 20 / 21, -0.4 * 20 / 21], abs=0.12)
    assert table["sd"].to_numpy() == pytest.approx(np.sqrt(1 / 21), rel=0.35)
    assert table["contraction"].to_numpy() == pytest.approx(20 / 21, abs=0.06)
    assert (table["HPD 90 % low"] < table["HPD 50 % low"]).all()
    assert (table["HPD 50 % high"] < table["HPD 90 % high"]).all()


def test_an_answer_is_checked(answer: Any) -> None:
    model, predictive, local, again = answer.checks
    assert model.verdict == "good", model
    assert predictive.values["inside_90"] > 0.7
    assert local.values["n"] > 100
    assert again.values["n"] == 200
    assert again.values["effective"] > 20
    assert len(answer.predicted["x"]) == 200
    assert len(answer.rests_on) == 10
    assert "good" in repr(answer).lower()
    assert "<table" in answer._repr_html_()


def test_files_of_an_answer(answer: Any) -> None:
    import xarray

    names = {path.name for path in answer.path.iterdir()}
    assert names == {"answer.html", "answer.json", "answer.nc", "draws.npz", "summary.csv"}
    with xarray.open_datatree(answer.path / "answer.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {
            *("posterior", "prior", "posterior_predictive", "prior_predictive", "observed_data")
        }
        assert tree["posterior"]["a"].shape == (1, 4000)
    assert read_document(answer.path / "answer.json")["checks"][0]["verdict"] == "good"
    page = (answer.path / "answer.html").read_text()
    assert 'src="http' not in page
    assert "Is the posterior right here?" in page


def test_a_repeat_simulates_nothing(run: Run, answer: Any) -> None:
    def stores() -> dict[Path, int]:
        files = (run.path / "predictive").rglob("*")
        return {path: path.stat().st_mtime_ns for path in files if path.suffix == ".json"}

    before = stores()
    again = run.infer(X, 4000)
    assert np.array_equal(again.draws, answer.draws)
    assert stores() == before


def test_an_observation_that_the_model_does_not_make_is_told(run: Run) -> None:
    odd = np.array(X)
    odd[3] += 4  # one outlier
    said = run.infer(odd, 500)
    assert not said.trusted
    assert said.checks[0].verdict == "doubt"
    assert "x[3]" in said.checks[0].sentence
    wide = run.infer(X * 494, 500, simulations=100)
    assert wide.checks[0].verdict == "doubt"
    assert "training standard deviations" in wide.checks[0].sentence


def test_test_quantities_of_the_user(run: Run) -> None:
    said = run.infer(X, 200, quantities={"largest": lambda x: x["x"].max()})
    assert set(said.predictive.p_values) == {"distance", "largest"}


def test_several_observations_and_files(run: Run, tmp_path: Path) -> None:
    several = run.infer(np.stack([X, -X]), 100, out=tmp_path / "two", checks=False)
    assert [one.path for one in several] == [tmp_path / "two" / "0", tmp_path / "two" / "1"]
    np.savetxt(tmp_path / "row.csv", X[None], delimiter=",")
    np.savetxt(tmp_path / "column.csv", X)
    (tmp_path / "x.json").write_text(json.dumps({"x": X.tolist()}))
    (tmp_path / "list.json").write_text(json.dumps(X.tolist()))
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    one = run.infer(X, 100, checks=False)
    for name in (
        "row.csv",
        "column.csv",
        "x.json",
        "list.json",
        "x.npy",
        "x.npz",
        one.path / "answer.nc",
    ):
        same = run.infer(tmp_path / name, 100, checks=False, out=tmp_path / "out")
        assert np.allclose(same.draws, one.draws, atol=1e-4), name


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (
            X[:4],
            r"x\['x'\] has shape \(4,\); valid is \(B, 10\) for B observations, or \(10,\) for one",
        ),
        (np.where(X > 0, np.nan, X), r"NaN or infinity in 'x' \(\d+ of 10 values: \[\d.*`joint`"),
        ({"y": X}, r"has the arrays \['y'\]; valid are \['x'\]"),
        (np.zeros((0, 10)), "hold no observation"),
    ],
)
def test_an_observation_that_does_not_fit_leaves_nothing(
    run: Run, tmp_path: Path, x: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run.infer(x, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_posterior_takes_a_bare_observation(run: Run) -> None:
    posterior = run.posterior()
    assert posterior.sample(X, 7).shape == (7, 2)
    assert posterior.sample({"x": X[None]}, 7).shape == (1, 7, 2)
    theta, log_prob = posterior.sample_with_log_prob(X, 7, seed=0)
    assert np.allclose(posterior.log_prob(theta, X), log_prob, atol=1e-3)


def test_a_run_opens_where_its_simulator_is_not_defined(run: Run) -> None:
    """The simulator is kept by value: another process draws, and can simulate more."""
    code = f"from sbiflow import Run; r = Run({str(run.path)!r}); print(r.simulator(a=1.0, b=0.0, seed=1)['x'][0])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert float(done.stdout) == pytest.approx(run.simulator(a=1.0, b=0.0, seed=1)["x"][0])


def test_a_changed_definition_is_refused_with_its_difference(run: Run) -> None:
    def local(a: float, b: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.concatenate([shifted(a, rng), 2 * shifted(b, rng)])}

    with pytest.raises(
        UsageError, match=r"(?s)another source of simulator 'local'.*\+.*2 \* shifted"
    ):
        Run(run.path, simulator=local, prior=PRIOR, **SETTINGS)


def test_wrong_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run yet: give a simulator"):
        Run(tmp_path / "none")
    with pytest.raises(UsageError, match="has no prior: give prior="):
        Run(tmp_path / "none", simulator=lambda a, rng: a, budget=1)
    with pytest.raises(UsageError, match="unknown key 'bugdet'"):
        Run(tmp_path / "none", simulator=gaussian, bugdet=3)
    assert not (tmp_path / "none").exists()


def test_a_budget_grows(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", simulator=gaussian, **SETTINGS | {"budget": 40, "test": 5})
    run.simulate()
    digest = run.simulate(budget=60)["digest"]
    once = Run(tmp_path / "once", simulator=gaussian, **SETTINGS | {"budget": 60, "test": 5})
    assert once.simulate()["digest"] == digest
    assert Run(tmp_path / "run").config.budget == 60


def test_a_script_is_no_module_that_workers_run_again(tmp_path: Path) -> None:
    """Without `if __name__ == ...`: workers get the simulator by value and do not run the script."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        from sbiflow import Run, Uniform, simulator
        scale = 2.0

        @simulator(prior={"a": Uniform(0, 1)})
        def scaled(a, rng):
            return scale * a + rng.normal()

        print(repr(Run("runs/mine", simulator=scaled, budget=30, test=0).simulate()))
        """)
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "30/30 simulations, 0 missing" in done.stdout
    status = [sys.executable, "-m", "pipeline", "status", "-o", "runs/mine", "--json"]
    told = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["ok"] == 30


def test_the_public_interface_names_what_it_has() -> None:
    for name in sbiflow.__all__:
        assert getattr(sbiflow, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sbiflow.nothing
