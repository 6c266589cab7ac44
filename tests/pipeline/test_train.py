"""The training stage on a small store: finished, repeated, stopped, refused."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import estimators
from pipeline.config import build
from pipeline.errors import DamagedError, PipelineError, Stopped, UsageError
from pipeline.results import Results, latest_training
from pipeline.run import RunDirectory
from pipeline.stop import Stop
from pipeline.store import Outcome, Rows, Schema, Spool, Store, Writer
from pipeline.train.result import TrainResult
from pipeline.train.row_weights import prior_weights
from pipeline.train.setup import Training, _graphed
from pipeline.train.stage import train
from pipeline.train.workers import check_resources
from simulators import Independent, MultivariateNormal, Uniform

N = 600
SMALL = {"width": 16, "depth": 1}


BOX = Independent({"a": Uniform(-1, 1), "b": Uniform(-1, 1)})


def make_run(path, n=N, held=N, prior=BOX, fails=lambda theta: np.zeros(len(theta), bool)):
    """A run whose training store holds the first `held` of n simulations: x = theta + noise."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (n, 2))
    x = {"x": (theta + 0.1 * rng.normal(size=(n, 2)))[:, [0, 1, 1]]}
    run = RunDirectory(path)
    schema = Schema({"x": ("<f8", (3,))})
    identity = {"simulator": {"prior": prior.spec()}} if prior else {"names": ["a", "b"]}
    store = Store.create(run.store("train"), identity, schema, 8192)
    with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 100) as spool:
        outcome = np.where(fails(theta[:held]), Outcome.FAILED, Outcome.OK).astype(np.uint8)
        spool.append(
            Rows(
                *(np.arange(held), theta[:held], {"x": x["x"][:held]}, {}),
                *(outcome, np.zeros(held, np.float32)),
            )
        )
    return run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def configure(estimator=None, budget=N, seed=1, **settings):
    return build(
        {
            "name": "test",
            "simulator": "two_moons",
            "budget": budget,
            "seed": seed,
            "estimator": {"name": "cmpe", "arguments": SMALL} | (estimator or {}),
            "train": {"steps": 80, "batch_size": 32, "threads": 1} | settings,
        }
    )


def weights(result):
    return torch.load(result.directory / "posterior" / "weights.pt", weights_only=True)


def curves_of(result):
    return json.loads((result.directory / "curves.json").read_text())["curves"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class StopAt(Stop):
    """Asked to stop when the loop has looked at it `looks` times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def reason(self):
        self.looks -= 1
        return "SIGTERM" if self.looks <= 0 else ""

    @reason.setter
    def reason(self, value):
        pass


def test_a_training_ends_with_a_posterior_and_is_done_once(run):
    events = []
    result = train(configure(), run, stop=Stop(), record=events.append)
    assert result.steps == 80
    assert result.train_rows + result.validation_rows == N
    assert result.store_digest == Store.open(run.store("train")).digest(N)
    assert latest_training(run) == result.key
    assert result.key.startswith("600-cmpe-")
    posterior = estimators.load(result.directory / "posterior")
    draws = posterior.sample({"x": np.zeros((3, 3))}, 20, seed=0)
    assert draws.shape == (3, 20, 2)
    assert posterior.names == ("a", "b")
    assert draws.abs().max() <= 1  # the prior's bounds
    for key in ("store_digest", "budget", "seed", "config_digest", "train_rows", "steps"):
        assert posterior.provenance[key]
    curves = curves_of(result)
    assert [entry["step"] for entry in curves] == list(range(1, 81))
    told = [event for event in events if event["event"] == "train"]
    assert told[-1]["step"] == 80
    assert events[-1]["event"] == "trained"
    assert {event["training"] for event in told} == {result.key} == {events[-1]["training"]}
    assert not list(result.directory.glob("*state*"))
    events.clear()
    assert train(configure(), run, stop=Stop(), record=events.append) == result
    assert not events


@pytest.mark.parametrize("in_memory", [True, False])
def test_stopped_and_repeated_equals_uninterrupted(tmp_path, in_memory):
    runs = [make_run(tmp_path / name) for name in "ab"]
    config = configure(in_memory=in_memory)
    expected = train(config, runs[0], stop=Stop())
    for looks in (1, 2, 1):
        with pytest.raises(Stopped, match="SIGTERM"):
            train(config, runs[1], stop=StopAt(looks))
    result = train(config, runs[1], stop=Stop())
    assert same(weights(expected), weights(result))


def test_running_out_of_time_stops_and_continues(run):
    with pytest.raises(Stopped, match=r"train\.walltime=0\.05"):
        train(configure(walltime=0.05, steps=2000), run, stop=Stop())
    result = train(configure(steps=2000), run, stop=Stop())
    assert result.steps == 2000
    free = train(configure(steps=2000), make_run(run.path.parent / "free"), stop=Stop())
    assert same(weights(result), weights(free))


def test_only_what_decides_the_result_is_in_the_key(run):
    key = Training(configure(), run).key
    for same_result in ({"threads": 2}, {"checkpoint_seconds": 5}, {"walltime": 9}, {"workers": 2}):
        assert Training(configure(**same_result), run).key == key
    for other in ({"learning_rate": 1e-3}, {"steps": 81}, {"batch_size": 16}, {"ema": 0.5}):
        assert Training(configure(**other), run).key != key
    assert Training(configure({"arguments": {"width": 8}}), run).key != key
    assert Training(configure(seed=2), run).key != key
    assert Training(configure(budget=500), run).key != key


def test_epochs_count_rows_of_training(run):
    training = Training(configure(steps=None, epochs=2.5), run)
    assert training.hyperparameters.steps == round(2.5 * (len(training.table.train) // 32))
    assert Training(configure(steps=None), run).hyperparameters.steps == 30_000


def test_what_cannot_be_trained_is_refused_with_numbers(tmp_path, run):
    with pytest.raises(UsageError, match=r"batch_size=1000 is more than the \d+ training rows"):
        train(configure(batch_size=1000), run, stop=Stop())
    with pytest.raises(UsageError, match=r"validation=0.0001 of 600 .* at least 2"):
        train(configure(validation=0.0001), run, stop=Stop())
    with pytest.raises(UsageError, match="200 simulations are missing"):
        train(configure(budget=800), run, stop=Stop())
    with pytest.raises(UsageError, match=r"cmpe.*widht"):
        train(configure({"arguments": {"widht": 3}}), run, stop=Stop())
    with pytest.raises(UsageError, match=r"workers=3"):
        train(configure(workers=3), run, stop=Stop())
    assert not (run.path / "latest.json").exists()


def test_each_worker_takes_a_core_for_each_of_its_threads():
    check_resources(configure(workers=2, threads=4), {"CPU": 8.0})
    check_resources(configure(workers=8), {"CPU": 8.0})
    with pytest.raises(UsageError, match=r"workers=2 with train\.threads=4 needs 8 CPU, Ray has 7"):
        check_resources(configure(workers=2, threads=4), {"CPU": 7.0})
    with pytest.raises(UsageError, match=r"workers=2 needs 2 GPU, Ray has 0"):
        check_resources(configure(workers=2, gpu=True), {"CPU": 8.0})


def test_divergence_names_the_step_and_leaves_no_posterior(run):
    with pytest.raises(PipelineError, match=r"in step \d+ of 80, at learning rate"):
        train(configure(learning_rate=1e30), run, stop=Stop())
    assert not list(run.path.glob("trainings/*/posterior"))


def test_a_second_process_is_turned_away(run):
    directory = Training(configure(), run).directory
    directory.mkdir(parents=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PipelineError, match="another process is training"):
            train(configure(), run, stop=Stop())
    assert train(configure(), run, stop=Stop()).steps == 80


def test_random_numbers_and_threads_of_the_caller_stay(run):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(configure(steps=5), run, stop=Stop())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_result_that_is_cut_off_is_made_anew(run, capsys):
    result = train(configure(steps=5), run, stop=Stop())
    (result.directory / "done.json").write_text('{"key": "')
    with pytest.raises(DamagedError, match=r"done\.json is damaged"):
        TrainResult.read(Results(run, result.key))
    assert same(weights(result), weights(train(configure(steps=5), run, stop=Stop())))
    assert "done.json is damaged: its content does not match its checksum; trains anew" in (
        capsys.readouterr().err
    )


@pytest.mark.chaos
def test_killed_and_repeated_equals_uninterrupted():
    words = ("--kills", "1", "--steps", "800", "--seed", "1")  # killed after a checkpoint
    command = [sys.executable, "-m", "benchmarks.chaos_train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["weights_bit_equal"]
    assert result["kills"] >= 1


def check_compiled_networks_learn_the_same(run, estimator, **settings):
    plain, compiled = (
        train(configure(estimator, compile=on, steps=40, **settings), run, stop=Stop())
        for on in (False, True)
    )
    assert plain.key != compiled.key
    losses = [[entry["validation"] for entry in curves_of(r)] for r in (plain, compiled)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
def test_compiled_networks_learn_the_same(run):
    npse = {"name": "npse", "arguments": {**SMALL, "members": 2}}
    check_compiled_networks_learn_the_same(run, npse)


def test_answers_of_graphs_outlive_the_next_pass():
    network = torch.nn.Linear(3, 2)
    graphed = _graphed(network.forward)
    rows = torch.randn(2, 5, 3)
    answers = [graphed(part) for part in rows]
    torch.testing.assert_close(torch.stack(answers), network(rows))
    answers[0].sum().backward()
    torch.testing.assert_close(network.weight.grad, rows[0].sum(0).expand(2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", ["npse", "cmpe", "cmpe_distilled", "fmpe"])
def test_graphs_learn_the_same_on_a_gpu(run, name):
    check_compiled_networks_learn_the_same(run, {"name": name, "arguments": SMALL}, gpu=True)


def test_compiling_needs_a_compiler(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"train\.compile.*C\+\+ compiler"):
        train(configure(compile=True), run, stop=Stop())


def test_weighted_rows_make_a_training_of_their_own(run, capsys):
    plain, weighted = configure(steps=20, prior_weights=False), configure(steps=20)
    results = [train(config, run, stop=Stop()) for config in (plain, weighted)]
    assert results[0].key != results[1].key
    assert not same(*map(weights, results))
    assert "rows are weighted by the prior and count as 9" in capsys.readouterr().err
    found = Training(weighted, run).weights
    assert len(found) == results[1].train_rows
    assert found.mean() == pytest.approx(1)
    assert Training(plain, run).weights is None


def test_simulations_that_failed_keep_the_others_from_standing_in_for_them(tmp_path):
    """Where a > 0.5 all fail: rows at a = 0.4 must not be seen more often for that."""
    run = make_run(tmp_path / "run", fails=lambda theta: theta[:, 0] > 0.5)
    training = Training(configure(prior_weights=True), run)
    near = training.table.gather(training.table.train).theta[:, 0].numpy() > 0.3
    assert len(training.weights) == len(near) < 0.8 * N
    assert training.weights[near].mean() < 1.2
    ids, theta = training.store.parameters(N)
    assert len(ids) == N
    ok_only = prior_weights(BOX.cube(theta[training.table.train]))
    assert ok_only[near].mean() > 1.5


@pytest.mark.parametrize(
    "prior", [None, MultivariateNormal(["a", "b"], [0, 0], np.eye(2), [-1, -1], [1, 1])]
)
def test_weights_without_the_prior_s_quantiles_are_refused(tmp_path, prior):
    run = make_run(tmp_path / "run", prior=prior)
    with pytest.raises(UsageError, match=r"prior_weights=true needs a prior.*not known|prior is M"):
        train(configure(prior_weights=True), run, stop=Stop())
    assert Training(configure(), run).weights is None  # the default does without


def test_parameters_that_are_not_draws_of_the_prior_are_doubted(tmp_path, capsys):
    wide = Independent({"a": Uniform(-3, 3), "b": Uniform(-1, 1)})
    run = make_run(tmp_path / "run", prior=wide)
    train(configure(steps=2, prior_weights=True), run, stop=Stop())
    assert "are the parameters draws of the prior?" in capsys.readouterr().err


def test_very_many_rows_are_streamed_and_not_weighted_and_it_is_said(run, monkeypatch, capsys):
    plain = Training(configure(prior_weights=False), run)
    assert plain.resident
    monkeypatch.setattr("pipeline.train.setup.MOST_WEIGHTED", N - 100)
    monkeypatch.setattr("pipeline.train.stage.MOST_WEIGHTED", N - 100)
    many = Training(configure(steps=3), run)
    assert many.weights is None
    assert many.key == Training(configure(steps=3, prior_weights=False), run).key
    monkeypatch.setattr("pipeline.train.setup.RESIDENT_BYTES", 100)
    assert not many.resident
    result = train(configure(steps=3), run, stop=Stop())
    provenance = estimators.load(result.directory / "posterior").provenance
    assert provenance["prior_weights"] is False
    assert provenance["most_weighted_rows"] == N - 100
    said = capsys.readouterr().err
    assert "streamed" in said
    assert f"more than {N - 100} rows are not weighted by the prior" in said
