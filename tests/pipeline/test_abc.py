"""ABC-SMC on our actors: the closed form, one seed one result, and simulations that fail."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pyabc
import pytest
from mlflow.tracking import MlflowClient

import cluster
import estimators
import simulators
from examples import tumor_abc
from pipeline import config as configuration
from pipeline import stages
from pipeline.abc import AbcResult, abc_smc, rows, simulator_from_pyabc, standardised_squares
from pipeline.abc.distance import Learned, distance_of
from pipeline.abc.distance import euclidean as euclidean_distance
from pipeline.abc.model import AbcPrior
from pipeline.abc.smc import check_continuous
from pipeline.errors import Stopped, TooManyFailed, UsageError
from pipeline.report.stage import report as write_report
from pipeline.results import latest_training
from pipeline.run import RunDirectory
from pipeline.simulate.actor_pool import ActorPool
from pipeline.stop import Stop
from pipeline.track.stage import sync
from simulators import Dirichlet, Integer, LogUniform, Normal, Uniform, prior_from, simulator
from simulators.prior import Independent, MultivariateNormal
from tests.pipeline.conftest import Finished

X = {"x": np.array([0.4, -0.2])}
THEIRS = pyabc.PNormDistance(p=2)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for all runs: a connection that is there is used."""
    with cluster.connect():
        yield


def euclidean(x: dict, y: dict) -> float:
    return float(np.linalg.norm(x["x"] - y["x"]))


def gaussian(folder: Path, **options: object) -> AbcResult:
    settings = {"population": 120, "generations": 4, "seed": 1, "distance": euclidean} | options
    return abc_smc(simulators.load("gaussian_linear", dim=2), X, folder, **settings)


def test_gaussian_linear_against_the_closed_form(tmp_path: Path) -> None:
    """p(theta | x) = N(x / 2, 0.05 I); with ||x' - x|| < eps its variance grows by about eps^2 / 16."""
    result = gaussian(tmp_path)
    assert result.theta.shape == (120, 2)
    assert (np.diff(result.epsilon) < 0).all()
    assert result.epsilon[-1] < 0.5
    assert (result.distance <= result.epsilon[-1]).all()
    assert result.weight.sum() == pytest.approx(1)
    mean = result.weight @ result.theta
    np.testing.assert_allclose(mean, X["x"] / 2, atol=4.5 * np.sqrt(0.05 / 70))
    variance = result.weight @ (result.theta - mean) ** 2
    np.testing.assert_allclose(variance, 0.05 + result.epsilon[-1] ** 2 / 16, rtol=0.4)
    stored = np.load(tmp_path / "draws.npz")
    np.testing.assert_array_equal(stored["theta"], result.theta)
    assert stored["simulations_ok"] == result.simulations["ok"] > 5 * 120
    assert pyabc.History(f"sqlite:///{tmp_path / 'abc.db'}").max_t == 3
    assert not list(tmp_path.glob(".notes-*"))


def test_one_seed_one_result_for_any_number_of_workers(tmp_path: Path) -> None:
    small = {"population": 30, "generations": 2, "distance": None}  # pyABC's adaptive distance
    one, two = (gaussian(tmp_path / str(n), workers=n, **small) for n in (1, 2))
    np.testing.assert_array_equal(one.theta, two.theta)
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.epsilon, two.epsilon)
    assert one.simulations == two.simulations


@pytest.mark.slow
def test_another_seed_gives_another_result(tmp_path: Path) -> None:
    small = {"population": 10, "generations": 1}
    one, other = (gaussian(tmp_path / str(seed), seed=seed, **small) for seed in (1, 2))
    assert (other.theta != one.theta).all()


@simulator(prior={"a": Uniform(0, 1), "b": LogUniform(0.1, 10)})
def troubled(a, b, rng):
    """Fails, in four ways, where a > 0.85."""
    if a > 0.95:
        raise ValueError("a is too large")
    if a > 0.9:
        return np.array([np.nan, b])
    if a > 0.87:
        time.sleep(60)
    if a > 0.85:
        os.abort()
    return np.array([a, np.log(b)]) + 0.05 * rng.standard_normal(2)


@pytest.mark.slow
def test_failures_are_rejected_and_counted(tmp_path: Path) -> None:
    x = {"x": np.array([0.6, 0.0])}
    result = abc_smc(
        troubled, x, tmp_path, distance=euclidean, population=12, generations=1, timeout=0.5, seed=6
    )
    assert result.theta[:, 0].max() <= 0.85
    assert np.all((result.theta[:, 1] >= 0.1) & (result.theta[:, 1] <= 10))
    assert all(
        result.simulations[outcome] > 0 for outcome in ("ok", "failed", "invalid", "timeout")
    )


@pytest.mark.slow
def test_a_note_written_after_the_end_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dismiss = ActorPool.dismiss

    def write(folder: Path) -> None:
        """As an actor does that is killed in its start, over and over while the folder is there."""
        with suppress(FileNotFoundError):
            for number in range(5_000):
                (folder / f"{number}.note").touch()

    def dismissed(pool: ActorPool) -> None:
        dismiss(pool)
        writer = Thread(target=write, args=(pool.setup.folder,), daemon=True)
        writer.start()
        writers.append(writer)

    writers: list[Thread] = []
    monkeypatch.setattr(ActorPool, "dismiss", dismissed)
    result = gaussian(tmp_path, population=10, generations=1)
    (writer,) = writers
    writer.join(60)
    assert not writer.is_alive()
    assert np.load(tmp_path / "draws.npz")["theta"].shape == result.theta.shape


@simulator(prior={"a": Uniform(0, 1)})
def broken(a, rng):
    raise ValueError("never works")


def test_nothing_but_failures_ends(tmp_path: Path) -> None:
    with pytest.raises(TooManyFailed, match=r"max_failed=0\.5.*never works"):
        abc_smc(broken, X, tmp_path, distance=euclidean, population=10)


@pytest.mark.slow
def test_an_error_of_the_distance_is_passed_on(tmp_path: Path) -> None:
    def wrong(x: dict, y: dict) -> float:
        return float(x["no such output"])

    with pytest.raises(KeyError, match="no such output"):
        gaussian(tmp_path, distance=wrong)


@pytest.mark.slow
def test_a_budget_is_kept(tmp_path: Path) -> None:
    result = gaussian(tmp_path, population=30, generations=20, simulations=300)
    assert sum(result.simulations.values()) <= 300
    assert 1 < len(result.epsilon) < 20
    with pytest.raises(UsageError, match="simulations=40 are too few"):
        gaussian(tmp_path / "less", population=30, simulations=40)


def test_a_stop_is_obeyed(tmp_path: Path) -> None:
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM"):
        gaussian(tmp_path, stop=stop)
    assert not (tmp_path / "draws.npz").exists()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_default_tumour_is_recovered(tmp_path: Path) -> None:
    """The example's posterior: every default lies in its central 95 %, growth and matrix are learned."""
    result = tumor_abc.infer(tmp_path)
    assert len(result.epsilon) == 6
    low, high = result.quantile(np.array([0.025, 0.975]))
    defaults = np.array([tumor_abc.DEFAULTS[name] for name in result.names])
    assert ((low <= defaults) & (defaults <= high)).all()
    assert np.log10(high / low)[0] < 0.6  # of the prior's 1.9 in its central 95 %
    assert sum(result.simulations.values()) == result.simulations["ok"] <= tumor_abc.SIMULATIONS


def test_bad_observation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finite"):
        abc_smc(simulators.load("gaussian_linear", dim=2), {"x": np.array([np.nan, 0])}, tmp_path)


@pytest.mark.parametrize(
    "prior",
    [
        Independent({"a": LogUniform(0.1, 10), "b": Normal(1, 2), "c": Uniform(-1, 1)}),
        MultivariateNormal(["a", "b"], [0, 1], [[1, 0.5], [0.5, 2]], low=[-1, None]),
    ],
    ids=["independent", "joint"],
)
def test_prior_in_other_coordinates(prior) -> None:
    """Draws are the prior's, and the density agrees with their histogram in the first coordinate."""
    np.random.seed(0)
    ours = AbcPrior(prior)
    z = [ours.rvs() for _ in range(2000)]
    theta = np.array([ours.coordinates.theta(draw) for draw in z])
    expected = prior.sample(np.random.default_rng(1), 2000)
    np.testing.assert_allclose(theta.mean(axis=0), expected.mean(axis=0), atol=0.3)
    assert all(ours.pdf(draw) > 0 for draw in z)
    label = ours.coordinates.labels[0]
    assert ours.pdf({**z[0], label: -100.0}) == 0
    if label.startswith("log_"):  # uniform in log a
        density = [ours.pdf({**z[0], label: value}) for value in (-2.0, 0.0, 2.0)]
        np.testing.assert_allclose(density, density[0], rtol=1e-12)


def test_standardised_squares_by_hand() -> None:
    distance = standardised_squares({"x": np.array([[0.0, 1, 5], [2.0, 5, 5]])})  # var 1, 4, 0
    assert distance({"x": np.array([1.0, 1, 9])}, {"x": np.array([3.0, 7, 0])}) == 4 + 9
    assert distance({"x": np.array([1.0])}, {"x": np.array([3.0, 7, 0])}) == 4


# --- as a stage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = configuration.build(
        {
            "name": "abc",
            "simulator": {"name": "gaussian_linear", "arguments": {"dim": 2}},
            "budget": 1,
            "abc": {"population": 30, "generations": 3, "distance": "euclidean"},
            "simulate": {"workers": 2},
            "track": {"live": False},
        }
    )
    there = RunDirectory(tmp_path_factory.mktemp("abc") / "run")
    configuration.save(config, there)
    return Finished(there, config)


@pytest.mark.slow
def test_a_stage_that_is_killed_comes_to_the_same_particles(run: Finished) -> None:
    class Later(Stop):
        """Asks to stop when some simulations of the second generation are kept."""

        @property
        def requested(self) -> bool:
            return any(run.run.path.glob("abc/*/generations/2.npz"))

    stop = Later()
    stop.reason = "a test"
    with pytest.raises(Stopped, match="a test"):
        stages.abc(run.config, run.run, X, stop)
    (folder,) = run.run.path.glob("abc/*/")
    kept = {path.name: path.read_bytes() for path in folder.glob("generations/*.npz")}
    assert {"0.npz", "1.npz", "2.npz"} == set(kept)
    done = stages.abc(run.config, run.run, X, Stop())
    for name in ("0.npz", "1.npz"):
        assert (folder / "generations" / name).read_bytes() == kept[name]  # not simulated again

    whole = abc_smc(
        simulators.load("gaussian_linear", dim=2),
        X,
        folder.parent / "whole",
        distance=euclidean_distance,
        population=30,
        generations=3,
        workers=1,
    )
    with np.load(folder / "draws.npz") as file:
        np.testing.assert_array_equal(file["theta"], whole.theta)
        np.testing.assert_array_equal(file["weight"], whole.weight)
    assert done["epsilon"] == whole.epsilon.tolist()
    assert done["simulations"] == whole.simulations
    assert stages.abc(run.config, run.run, X, Stop()) == done
    kept = rows(folder, simulators.load("gaussian_linear", dim=2))
    # Those behind the last particle of a generation, which workers had begun, are kept and not counted.
    assert len(kept["theta"]) >= done["simulations"]["ok"]
    assert kept["accepted"].sum() >= 4 * 30  # the calibration accepts all
    distances = np.array([euclidean_distance({"x": x}, X) for x in kept["x/x"]])
    measured = np.isfinite(kept["distance"])  # the calibration measures none
    assert measured.sum() >= 3 * 30
    np.testing.assert_allclose(distances[measured], kept["distance"][measured])

    history = pyabc.History(f"sqlite:///{folder / 'abc.db'}")
    assert history.max_t == 2
    frame, weight = history.get_distribution(t=2)
    axes = pyabc.visualization.plot_kde_1d(frame, weight, frame.columns[0])
    assert axes.lines


def test_its_report_and_its_mlflow_run(run: Finished) -> None:
    stages.abc(run.config, run.run, X, Stop())
    page = write_report(run.run).read_text()
    assert "ABC beside the network" in page
    sync(run.run, run.run.tracking_uri, "abc")
    client = MlflowClient(tracking_uri=run.run.tracking_uri)
    (one,) = client.search_runs(["1"], "tags.`sbiflow.kind` = 'abc'")
    assert one.info.status == "FINISHED"
    assert one.data.params["abc.population"] == "30"
    history = client.get_metric_history(one.info.run_id, "abc/epsilon")
    assert [p.step for p in history] == [1, 2, 3]


def test_a_distance_that_is_unknown_is_refused(run: Finished) -> None:
    config = run.configure("abc.distance=euclidian")
    with pytest.raises(UsageError, match="adaptive, euclidean, learned"):
        stages.abc(config, run.run, X, Stop())


def test_distances_of_pyabc_are_named_as_objects_and_as_classes() -> None:
    x, y = {"x": 3.0, "y": 1.0}, {"x": 0.0, "y": 5.0}
    for name in ("pyabc:PNormDistance", "tests.pipeline.test_abc:THEIRS"):
        found = distance_of(name, None)
        assert isinstance(found, pyabc.Distance)
        found.initialize(0, lambda: [x], y, 0)
        assert found(x, y, 0) == {2: 5.0, 1: 7.0}[found.p]
    with pytest.raises(UsageError, match="no_such"):
        distance_of("pyabc:no_such", None)


def test_a_learned_distance_is_that_of_the_summaries(finished: Finished) -> None:
    training = finished.run.training(latest_training(finished.run))
    distance = pickle.loads(pickle.dumps(Learned(training / "posterior")))
    x, y = {"x": np.array([0.5, 1.0])}, {"x": np.array([-0.5, 0.2])}
    posterior = estimators.load(training / "posterior")
    both = posterior.summarise({"x": np.stack([x["x"], y["x"]])}).numpy()
    assert distance(x, y) == pytest.approx(np.linalg.norm(both[0] - both[1]), rel=1e-6)
    assert distance(y, y) == 0


def pyabc_model(parameters: dict) -> dict:
    return {"y": parameters["a"] + parameters["c"] * np.random.randn(3), "z": parameters["b"]}


def test_models_and_priors_of_pyabc_are_simulators() -> None:
    prior = pyabc.Distribution(
        a=pyabc.RV("uniform", -1, 3),
        b=pyabc.RV("norm", 1, 2),
        c=pyabc.RV("lognorm", 0.5, scale=3),
        d=pyabc.RV("loguniform", 0.1, 10),
        e=pyabc.RV("truncnorm", -1, 2, loc=1, scale=0.5),
        f=pyabc.RV("halfnorm", 0.5, 2),
        g=pyabc.LowerBoundDecorator(pyabc.RV("norm", 1, 1), 0.5),
    )
    ours = simulator_from_pyabc("theirs", pyabc_model, prior)
    theta = ours.prior.sample(np.random.default_rng(0), 20)
    theirs = [prior.pdf(dict(zip(ours.prior.names, row, strict=True))) for row in theta]
    np.testing.assert_allclose(np.exp(ours.prior.log_prob(theta)), theirs)
    first, again = (ours.simulate(theta[0], np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first["y"], again["y"])
    assert first["y"].shape == (3,)
    with pytest.raises(UsageError, match="'gamma'"):
        simulator_from_pyabc("no", pyabc_model, pyabc.Distribution(a=pyabc.RV("gamma", 2)))


def test_discrete_parameters_and_shares_are_refused() -> None:
    check_continuous(prior_from({"a": Normal(0, 1)}))
    with pytest.raises(UsageError, match="'k' is integer: train the estimator `mixed`"):
        check_continuous(prior_from({"a": Normal(0, 1), "k": Integer(0, 3)}))
    with pytest.raises(UsageError, match="p, q add up to one"):
        check_continuous(Dirichlet(["p", "q"], [1, 1]))
