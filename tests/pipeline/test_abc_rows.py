"""The simulations of ABC as rows: densities, digests, repair, export, training, and proposals of posteriors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyabc
import pytest

import cluster
import simulators
from pipeline import config as configuration
from pipeline import show, stages
from pipeline.abc import AbcResult, abc_smc, rows
from pipeline.abc.distance import euclidean
from pipeline.abc.history import export_history
from pipeline.abc.kept import Kept
from pipeline.abc.model import AbcPrior
from pipeline.abc.proposal import PRIOR_SHARE, Proposal
from pipeline.errors import UsageError
from pipeline.files import read_arrays, write_arrays
from pipeline.imported.stage import Pairs
from pipeline.refine.rows import trained
from pipeline.refine.weighted import weighted_pairs
from pipeline.report.contents import count
from pipeline.report.stage import report
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import Store, export
from simulators import LogUniform, Uniform, prior_from
from tests.pipeline.conftest import Finished

ROOT = Path(__file__).parents[2]
X = {"x": np.array([0.4, -0.2])}
CONFIG = {
    "name": "rows",
    "simulator": {"name": "gaussian_linear", "arguments": {"dim": 2}},
    "budget": 200,
    "test": 2,
    "abc": {"population": 60, "generations": 3, "distance": "euclidean"},
    "simulate": {"workers": 2},
    "track": {"live": False},
}


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for all runs: a connection that is there is used."""
    with cluster.connect():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with draws of the prior and one ABC run."""
    config = configuration.build(CONFIG)
    run = RunDirectory(tmp_path_factory.mktemp("rows") / "run")
    configuration.save(config, run)
    stages.simulate(configuration.build({**CONFIG, "simulate": {"ray": False}}), run, Stop())
    stages.abc(config, run, X, Stop())
    return Finished(run, config)


@pytest.fixture
def copy(whole: Finished, tmp_path: Path) -> Finished:
    shutil.copytree(whole.run.path, tmp_path / "run")
    return Finished(RunDirectory(tmp_path / "run"), whole.config)


def key_of(run: RunDirectory) -> str:
    return next(run.path.glob("abc/*/done.json")).parent.name


def test_a_row_has_the_density_by_which_pyabc_proposed_it(whole: Finished) -> None:
    """The weights of pyABC's particles are p / q, up to the share of q on the support of the prior."""
    simulator = simulators.load("gaussian_linear", dim=2)
    key = key_of(whole.run)
    kept = Kept.of(whole.run.abc(key), simulator)
    store = Store.open(whole.run.store(f"abc-{key}"))
    done = stages.abc(whole.config, whole.run, X, Stop())
    assert store.counts()["ok"] == done["simulations"]["ok"] == done["rows"]
    assert store.digest() == done["digest"]
    assert store.identity["stream"] == f"abc-{key}"
    assert [number for number, _, _ in kept.generations()] == [-1, 0, 1, 2]
    for generation, first, n in kept.generations():
        arrays = read_arrays(kept.path(generation))
        assert not any(name.startswith("x/") for name in arrays)
        found = store.rows(np.arange(first, first + n))
        ratio = simulator.prior.log_prob(found.theta) - found.x["proposal_log_prob"]
        chosen = arrays["accepted"]
        log_weight = np.log(arrays["weight"][chosen])
        np.testing.assert_allclose(ratio[chosen], log_weight, atol=1e-8)
        assert (ratio == 0).all() if generation < 1 else np.ptp(ratio) > 0.5


def test_a_proposal_is_normalised_on_the_support_and_follows_its_draws() -> None:
    """q integrates to 1 over a prior with bounds and a parameter on a log scale; draws have its moments."""
    own = prior_from({"a": Uniform(0, 1), "b": LogUniform(0.1, 10)})
    rng = np.random.default_rng(0)
    theta = np.stack([rng.normal(0.9, 0.1, 300), np.exp(rng.normal(1, 0.8, 300))], axis=1)
    proposal = Proposal.of_draws(AbcPrior(own), theta)
    assert proposal.prior_share == PRIOR_SHARE
    draws = own.sample(rng, 200_000)
    log_q = proposal.natural_log_prob(draws)
    ratio = np.exp(log_q - own.log_prob(draws))
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error + 0.004  # the second is that of c
    assert (1 / ratio).max() <= 1 / PRIOR_SHARE
    np.random.seed(0)
    labels = proposal.prior.coordinates.labels
    some = [proposal.rvs() for _ in range(2000)]
    own_draws = np.array([[z[label] for label in labels] for z in some])
    inside = np.isfinite(proposal.prior.log_prob(own_draws))
    assert inside.mean() == pytest.approx(proposal.inside, abs=0.03)
    wanted = (ratio @ np.log(draws[:, 1])) / ratio.sum()
    assert own_draws[inside, 1].mean() == pytest.approx(wanted, abs=0.08)


def test_rows_of_prior_and_abc_together_follow_the_prior_by_their_weights(whole: Finished) -> None:
    """E theta = 0, E theta^2 = 0.1 under the prior N(0, 0.1 I); without weights the rows miss it."""
    pairs = weighted_pairs(whole.config, whole.run, key_of(whole.run))
    prior = simulators.load("gaussian_linear", dim=2).prior
    log_w = prior.log_prob(pairs.theta) - pairs.x["proposal_log_prob"]
    weight = np.exp(log_w)
    n, of_prior = len(weight), whole.config.budget + 60
    assert weight.max() <= n / of_prior
    for power, expected in ((1, 0.0), (2, 0.1)):
        values = pairs.theta**power - expected
        error = np.sqrt(np.square(weight[:, None] * values).mean(axis=0) / n)
        assert (abs((weight[:, None] * values).mean(axis=0)) < 4 * error).all()
    first = pairs.theta[:, 0]
    assert first.mean() > 5 * first.std() / np.sqrt(n)


def test_another_density_is_noticed(copy: Finished) -> None:
    assert show.problem_values(copy.run) == []
    path = copy.run.abc(key_of(copy.run)) / "generations" / "2.npz"
    arrays = read_arrays(path)
    arrays["weight"] = np.where(arrays["accepted"], 1.0, arrays["weight"])
    write_arrays(path, arrays)
    (problem,) = show.problem_values(copy.run)
    assert problem["stream"] == f"abc-{key_of(copy.run)}"
    assert "generation 2" in problem["message"]


def test_a_damaged_shard_is_repaired_to_the_same_digest(copy: Finished) -> None:
    from pipeline.store import repair

    key = key_of(copy.run)
    place = copy.run.store(f"abc-{key}")
    digest = Store.open(place).digest()
    file = next(path for path in place.glob("shards/*/x/x/c/**/0") if path.is_file())
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))
    assert show.problem_values(copy.run)
    lost = repair(Store.open(place))
    assert len(lost) == 1
    stages.repair_abc(copy.config, copy.run, Stop())
    assert Store.open(place).digest() == digest
    assert show.problem_values(copy.run) == []


def test_the_rows_are_exported(whole: Finished, tmp_path: Path) -> None:
    store = Store.open(whole.run.store(f"abc-{key_of(whole.run)}"))
    with np.load(export(store, tmp_path / "rows.npz")) as file:
        np.testing.assert_array_equal(file["id"], np.arange(store.counts()["ok"]))
        assert file["x/proposal_log_prob"].shape == file["id"].shape
    found = rows(whole.run.abc(key_of(whole.run)), simulators.load("gaussian_linear", dim=2))
    again = store.rows(np.arange(len(found["theta"])))
    np.testing.assert_array_equal(found["x/x"], again.x["x"])
    np.testing.assert_allclose(found["proposal_log_prob"], again.x["proposal_log_prob"], atol=1e-9)


def test_an_exported_history_is_read_by_pyabc(whole: Finished, tmp_path: Path) -> None:
    """pyABC's History, its plots and its own continuation find particles, weights, distances and outputs."""
    key = key_of(whole.run)
    path = export_history(whole.config, whole.run, f"abc-{key}", tmp_path / "abc.db")
    history = pyabc.History(f"sqlite:///{path}", create=False)
    done = stages.abc(whole.config, whole.run, X, Stop())
    assert history.max_t == 2
    np.testing.assert_array_equal(history.observed_sum_stat()["x"], X["x"])
    levels = history.get_all_populations().query("t >= 0")
    np.testing.assert_allclose(levels["epsilon"], done["epsilon"])
    assert levels["samples"].sum() + 60 == done["rows"]  # and the calibration
    frame, weight = history.get_distribution(t=2)
    with np.load(whole.run.abc(key) / "draws.npz") as draws:
        names = list(draws["names"])
        np.testing.assert_array_equal(frame[names].to_numpy(), draws["theta"])
        np.testing.assert_allclose(weight, draws["weight"])
    weights, stats = history.get_weighted_sum_stats(t=2)
    distances = history.get_weighted_distances(t=2)["distance"]
    np.testing.assert_allclose([euclidean(one, X) for one in stats], distances)
    assert len(weights) == 60
    assert pyabc.visualization.plot_kde_1d(frame, weight, names[0]).lines
    assert pyabc.visualization.plot_epsilons(history).lines
    assert pyabc.visualization.plot_credible_intervals(history) is not None


def test_draws_of_the_prior_are_exported_with_distances(whole: Finished, tmp_path: Path) -> None:
    path = tmp_path / "prior.db"
    with pytest.raises(UsageError, match="needs an observation"):
        export_history(whole.config, whole.run, "train", path)
    export_history(whole.config, whole.run, "train", path, X)
    history = pyabc.History(f"sqlite:///{path}", create=False)
    frame, weight = history.get_distribution()
    assert frame.shape == (200, 2)
    np.testing.assert_allclose(weight, 1 / 200)
    store = Store.open(whole.run.store("train"))
    expected = np.linalg.norm(store.rows(np.arange(200)).x["x"] - X["x"], axis=1)
    np.testing.assert_allclose(history.get_weighted_distances()["distance"], expected)
    assert not list(tmp_path.glob(".prior*"))


# --- the same for any number of workers, and after kills ---------------------------------------------


def test_the_digest_is_that_of_any_number_of_workers(whole: Finished, tmp_path: Path) -> None:
    digests = {stages.abc(whole.config, whole.run, X, Stop())["digest"]}
    for workers in (1, 4):
        config = whole.configure(f"simulate.workers={workers}")
        run = RunDirectory(tmp_path / str(workers))
        configuration.save(config, run)
        digests.add(stages.abc(config, run, X, Stop())["digest"])
    assert len(digests) == 1


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_abc_that_is_killed_at_random_has_the_same_digest(
    whole: Finished, tmp_path: Path
) -> None:
    """SIGKILL three times, each after a random time of work; then a repeat finishes."""
    observation, run = tmp_path / "x.npz", RunDirectory(tmp_path / "run")
    np.savez(observation, **X)
    configuration.save(whole.config, run)
    command = [sys.executable, "-m", "pipeline", "abc", "-o", str(run.path)]
    command += ["--obs", str(observation)]
    rng = np.random.default_rng(0)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
            until = time.monotonic() + 300
            files = len(list(run.path.glob("abc/*/generations/*.npz")))
            while process.poll() is None and time.monotonic() < until:
                if len(list(run.path.glob("abc/*/generations/*.npz"))) > files:
                    break
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2))
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=900)
    wanted = stages.abc(whole.config, whole.run, X, Stop())
    found = stages.abc(whole.config, run, X, Stop())
    assert found["digest"] == wanted["digest"]
    assert found["median"] == wanted["median"]
    assert show.problem_values(run) == []


# --- training --------------------------------------------------------------------------------------


def test_training_by_proposals_learns_the_posterior_under_the_prior(tmp_path: Path) -> None:
    """Prior N(0, 1), x | theta ~ N(theta, 1), parameters from N(1.5, 0.25) and the prior, half each.

    p(theta | x = 1) = N(0.5, 0.5). Without weights the parameters count as draws of a prior: then the mean is
    that under the mixture, 1.04, by numerical integration below.
    """
    rng, n = np.random.default_rng(0), 6000
    theta = rng.normal(0, 1, (n, 1))
    theta[: n // 2] = rng.normal(1.5, 0.5, (n // 2, 1))
    x = {"x": theta + rng.normal(size=(n, 1))}
    q = 0.5 * normal(theta[:, 0], 0, 1) + 0.5 * normal(theta[:, 0], 1.5, 0.5)
    prior = prior_from({"theta_1": simulators.Normal(0, 1)}).spec()
    pairs = Pairs(("theta_1",), theta, x | {"proposal_log_prob": np.log(q)}, {}, prior)
    config = configuration.build(
        {
            "name": "proposed",
            "budget": n,
            "simulator": "gaussian_linear",
            "estimator": {
                "name": "acf",
                "arguments": {"transforms": 2, "hidden": [32], "dropout": 0.0},
            },
            "train": {"steps": 400, "batch_size": 500, "learning_rate": 5e-3, "ema": 0.99},
        }
    )
    found = {}
    for weights in (True, False):
        run = RunDirectory(tmp_path / str(weights))
        posterior = trained(config, run, pairs, Stop(), prior_weights=weights)
        draws = posterior.sample({"x": np.ones((1, 1))}, 4000, seed=0)[0].numpy()
        found[weights] = draws.mean(), draws.var()
        assert posterior.x_shapes == {"x": (1,)}
    grid = np.linspace(-5, 6, 10_001)
    density = normal(grid, 1, 1) * (0.5 * normal(grid, 0, 1) + 0.5 * normal(grid, 1.5, 0.5))
    mixed = (grid * density).sum() / density.sum()
    assert mixed == pytest.approx(1.04, abs=0.01)
    assert found[True] == pytest.approx((0.5, 0.5), abs=0.1)
    assert found[False][0] == pytest.approx(mixed, abs=0.1)


def normal(value: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((value - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_trains_on_both(whole: Finished, tmp_path: Path) -> None:
    """`sbiflow abc --train`: the network of a small budget and ABC has the closed form N(x / 2, 0.05 I)."""
    run, observation = RunDirectory(tmp_path / "run"), tmp_path / "x.npz"
    shutil.copytree(whole.run.path, run.path)
    np.savez(observation, **X)
    command = [sys.executable, "-m", "pipeline", "abc", "-o", str(run.path), "--obs"]
    command += [str(observation), "--train", "estimator=acf", "train.steps=400"]
    command += ["train.batch_size=128"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    (inner,) = run.abc(key_of(run)).glob("run-*")
    from pipeline.results import Results, latest_training

    posterior = Results(RunDirectory(inner), latest_training(RunDirectory(inner))).load()
    draws = posterior.sample({"x": X["x"][None]}, 4000, seed=0)[0].numpy()
    np.testing.assert_allclose(draws.mean(axis=0), X["x"] / 2, atol=0.07)
    np.testing.assert_allclose(draws.var(axis=0), 0.05, atol=0.02)
    assert posterior.provenance["prior_weights"]


# --- posteriors as proposal ------------------------------------------------------------------------


def test_a_first_generation_from_a_wrong_posterior_gives_the_same_posterior(tmp_path: Path) -> None:
    """Draws of N(x / 2 + 0.1, 0.03 I), and not of N(x / 2, 0.05 I): the weights make up for it."""
    rng = np.random.default_rng(0)
    draws = rng.normal(X["x"] / 2 + 0.1, np.sqrt(0.03), (1000, 2))
    result: AbcResult = abc_smc(
        simulators.load("gaussian_linear", dim=2),
        X,
        tmp_path,
        distance=euclidean,
        population=200,
        generations=2,
        seed=1,
        proposal=draws,
    )
    mean = result.weight @ result.theta
    effective = 1 / np.square(result.weight).sum()
    np.testing.assert_allclose(mean, X["x"] / 2, atol=4.5 * np.sqrt(0.05 / effective))
    variance = result.weight @ (result.theta - mean) ** 2
    np.testing.assert_allclose(variance, 0.05 + result.epsilon[-1] ** 2 / 16, rtol=0.45)
    assert np.ptp(np.log(result.weight)) > 0.1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_trained_posterior_is_the_proposal(finished: Finished) -> None:
    """theta | x ~ N(0.8 x, 0.2), whatever the small network of this run has learned."""
    x = {"x": np.array([0.3, -0.4])}
    words = ("abc.proposal=posterior", "abc.population=100", "abc.generations=3")
    config = finished.configure(*words, "abc.distance=learned", "simulate.workers=2")
    done = stages.abc(config, finished.run, x, Stop())
    with np.load(finished.run.abc(done["key"]) / "draws.npz") as draws:
        theta, weight = draws["theta"], draws["weight"]
    mean = weight @ theta
    effective = 1 / np.square(weight).sum()
    np.testing.assert_allclose(mean, 0.8 * x["x"], atol=4.5 * np.sqrt(0.2 / effective))
    assert done["settings"]["abc"]["posterior"]
    assert show.problem_values(finished.run) == []
    assert stages.abc(config, finished.run, x, Stop()) == done
    page = report(finished.run).read_text()
    assert "<th>network</th>" in page
    assert (
        f"{count(sum(done['simulations'].values()))} simulations for this observation alone" in page
    )
