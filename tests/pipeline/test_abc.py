"""ABC-SMC on our actors: the closed form, one seed one result, and simulations that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pyabc
import pytest

import cluster
import simulators
from examples import tumor_abc
from pipeline.abc import AbcResult, abc_smc, standardised_squares
from pipeline.abc.model import Prior
from pipeline.errors import Stopped, TooManyFailed, UsageError
from pipeline.simulation.crew import Crew
from pipeline.stop import Stop
from simulators import LogUniform, Normal, Uniform, simulator
from simulators.prior import Independent, MultivariateNormal

X = {"x": np.array([0.4, -0.2])}


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for all runs: a connection that is there is used."""
    with cluster.connect():
        yield


def euclidean(x: dict, y: dict) -> float:
    return float(np.linalg.norm(x["x"] - y["x"]))


def gaussian(folder: Path, **options: object) -> AbcResult:
    settings = {"population": 200, "generations": 5, "seed": 1, "distance": euclidean} | options
    return abc_smc(simulators.load("gaussian_linear", dim=2), X, folder, **settings)


def test_gaussian_linear_against_the_closed_form(tmp_path: Path) -> None:
    """p(theta | x) = N(x / 2, 0.05 I); with ||x' - x|| < eps its variance grows by about eps^2 / 16."""
    result = gaussian(tmp_path)
    assert result.theta.shape == (200, 2)
    assert (np.diff(result.epsilon) < 0).all()
    assert result.epsilon[-1] < 0.4
    assert (result.distance <= result.epsilon[-1]).all()
    assert result.weight.sum() == pytest.approx(1)
    mean = result.weight @ result.theta
    np.testing.assert_allclose(mean, X["x"] / 2, atol=4.5 * np.sqrt(0.05 / 120))
    variance = result.weight @ (result.theta - mean) ** 2
    np.testing.assert_allclose(variance, 0.05 + result.epsilon[-1] ** 2 / 16, rtol=0.4)
    stored = np.load(tmp_path / "draws.npz")
    np.testing.assert_array_equal(stored["theta"], result.theta)
    assert stored["simulations_ok"] == result.simulations["ok"] > 6 * 200
    assert pyabc.History(f"sqlite:///{tmp_path / 'abc.db'}").max_t == 4
    assert not list(tmp_path.glob(".notes-*"))


def test_one_seed_one_result_for_any_number_of_workers(tmp_path: Path) -> None:
    small = {"population": 30, "generations": 2, "distance": None}  # pyABC's adaptive distance
    one, two = (gaussian(tmp_path / str(n), workers=n, **small) for n in (1, 2))
    np.testing.assert_array_equal(one.theta, two.theta)
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_array_equal(one.epsilon, two.epsilon)
    assert one.simulations == two.simulations
    other = gaussian(tmp_path / "other", workers=2, **small | {"seed": 2})
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


def test_a_note_written_after_the_end_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dismiss = Crew.dismiss

    def write(folder: Path) -> None:
        """As an actor does that is killed in its start, over and over while the folder is there."""
        with suppress(FileNotFoundError):
            for number in range(5_000):
                (folder / f"{number}.note").touch()

    def dismissed(crew: Crew) -> None:
        dismiss(crew)
        writer = Thread(target=write, args=(crew.job.folder,), daemon=True)
        writer.start()
        writers.append(writer)

    writers: list[Thread] = []
    monkeypatch.setattr(Crew, "dismiss", dismissed)
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


def test_an_error_of_the_distance_is_passed_on(tmp_path: Path) -> None:
    def wrong(x: dict, y: dict) -> float:
        return float(x["no such output"])

    with pytest.raises(KeyError, match="no such output"):
        gaussian(tmp_path, distance=wrong)


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


@pytest.mark.slow
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
    ours = Prior(prior)
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
