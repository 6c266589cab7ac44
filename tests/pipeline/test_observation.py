"""Observation noise that is drawn afresh: seeds, both ways of reading rows, training, evaluation, export."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from pipeline import config as configuration
from pipeline.config import simulator_of
from pipeline.errors import Stopped, UsageError
from pipeline.evaluate.simulations import TestSimulations
from pipeline.evaluate.stage import evaluate
from pipeline.plan.requirements import problems
from pipeline.run import STREAMS, RunDirectory
from pipeline.simulate.setup import identity, spec_of
from pipeline.simulate.spec import schema_of
from pipeline.stop import Stop
from pipeline.store import Spool, Store, Writer, export, to_numpy
from pipeline.store.observation import Observation, row_seeds
from pipeline.train import dataset
from pipeline.train.batches import Order, StreamedBatches
from pipeline.train.dataset import Table
from pipeline.train.observed_batches import ObservedBatches
from pipeline.train.setup import Training
from pipeline.train.stage import train
from simulators.observation import Observe

N, BATCH = 300, 32
SOURCE = """
import numpy as np
from simulators import DataPrior, Normal, simulator


def noise(latent, rng):
    return {"x": (latent["mean"] + 0.5 * rng.standard_normal(latent["mean"].shape)).astype("f4")}


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)}, observe=noise)
def single(a, b, rng):
    return {"mean": np.array([a, b]), "dear": np.arange(3)}


@simulator(prior={"a": Normal(0, 1), "b": Normal(0, 1)}, observe=noise, batched=True)
def many(a, b, rng):
    return {"mean": np.stack([a, b], axis=1), "dear": np.zeros((len(a), 3))}


IMAGES = np.random.default_rng(0).random((400, 8, 9))
IMAGES[:, 0, 0] = 0.25


@simulator(prior=DataPrior(IMAGES, held_out=50, label="image"), observe=noise, batched=True)
def images(theta, rng):
    return {"mean": theta.reshape(-1, 8, 9)}


def brighter(x, rng):
    return {"x": x["x"] + 100 * rng.random()}


def cut(x, rng):
    return {"x": x["x"][:1]}


@simulator(prior={"a": Normal(0, 1)}, observe=lambda latent, rng: {"x": latent["x"] * np.nan})
def broken(a, rng):
    return {"x": np.array([a])}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.py"
    path.write_text(SOURCE)
    return path


def configure(file, name, *words):
    values = {
        "name": "small",
        "seed": 3,
        "simulator": f"{file}:{name}",
        "budget": N,
        "test": 20,
        "simulate": {"block": 64},
        "estimator": {"name": "cmpe", "arguments": {"width": 16, "depth": 1}},
        "train": {"steps": 40, "batch_size": BATCH, "validation": 0.1, "checkpoint_seconds": 1e-9},
        "evaluate": {"draws": 20, "sampling_steps": 2, "metrics": ["rmse", "seconds"]},
    }
    return configuration.build(configuration.override(values, words))


def simulate(config, run):
    """Fill both stores in this process, in shards of a few rows."""
    for stream, budget in zip(STREAMS, (config.budget, config.test), strict=True):
        simulation = spec_of(config, stream)
        cuts = np.arange(0, budget, simulation.key_size)
        rows = [
            simulation.run(np.arange(a, min(a + simulation.key_size, budget)))
            for a in cuts.tolist()
        ]
        schema = schema_of(rows[0], simulation.simulator.ragged)
        store = Store.open_or_create(run.store(stream), identity(simulation), schema)
        with Writer(store) as writer, Spool(writer.spool_directory, "a", schema, 50) as spool:
            for some in rows:
                spool.append(some)
    return Store.open(run.store("train"))


@pytest.fixture(params=["single", "many"])
def made(request, file, tmp_path):
    config, run = configure(file, request.param), RunDirectory(tmp_path / "run")
    store = simulate(config, run)
    return config, run, store


def observed(config, store, **given):
    return Observation.of(simulator_of(config), store.identity, **given)


def test_seeds_follow_from_root_stream_id_and_number():
    ids = np.arange(1000)
    seeds = row_seeds(1, 0, ids, 3, 0)
    assert row_seeds(1, 0, ids[7:8], 3, 0)[0] == seeds[7]
    others = [(2, 0, 3, 0), (1, 1, 3, 0), (1, 0, 4, 0), (1, 0, 3, 1)]
    every = [seeds, *(row_seeds(s, stream, ids, p, k) for s, stream, p, k in others)]
    assert len(np.unique(np.concatenate(every))) == 5000


def test_the_noise_of_an_id_is_its_own_and_new_in_each_epoch(made):
    config, _, store = made
    observation = observed(config, store)
    ids, _, latent, _ = to_numpy(store)
    assert set(latent) == {"mean", "dear"}
    fixed = observation(latent, ids)["x"]
    some = np.array([200, 3, 77])
    for epoch in (None, 0, 5):
        whole = observation(latent, ids, epoch)["x"]
        part = observation({k: v[some] for k, v in latent.items()}, ids[some], epoch)["x"]
        np.testing.assert_array_equal(part, whole[some])
        noise = (whole - latent["mean"]) / 0.5
        assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
        assert noise.var() == pytest.approx(1, abs=4 * np.sqrt(2 / noise.size))
        assert epoch is None or not (whole == fixed).any()


def test_streams_and_rows_in_memory_observe_alike(made, monkeypatch):
    config, _, store = made
    monkeypatch.setattr(dataset, "UNIT_BYTES", 40 * 16)  # 40 rows
    observation = observed(config, store)
    table = Table.of(store, N, 0.1, observation)
    assert table.shapes == {"x": (2,)}
    ids, theta, latent, _ = to_numpy(store)
    for kind in (StreamedBatches, ObservedBatches):
        batches = kind(table, Order(5, BATCH))
        seen = {}
        for step, batch in enumerate(islice(batches, 2 * batches.steps)):
            epoch = step // batches.steps
            whole = observation(latent, ids, epoch)["x"]
            rows = [int(np.argmin(abs(theta - t).sum(1))) for t in batch.theta.numpy()]
            np.testing.assert_array_equal(batch.x["x"], whole[rows])
            seen.setdefault(epoch, []).extend(rows)
        assert [len(set(rows)) for rows in seen.values()] == [batches.steps * BATCH] * 2
    np.testing.assert_array_equal(
        table.validation_batch().x["x"], observation(latent, ids)["x"][table.validation]
    )
    np.testing.assert_array_equal(table.sample().x["x"], observation(latent, ids)["x"][table.train])


@pytest.mark.parametrize("step", [1, 8, 9, 21])
@pytest.mark.parametrize("kind", [StreamedBatches, ObservedBatches])
def test_batches_continue_anywhere(file, tmp_path, step, kind):
    config = configure(file, "many")
    store = simulate(config, RunDirectory(tmp_path / "run"))
    table = Table.of(store, N, 0.1, observed(config, store))
    whole = [batch.x["x"] for batch in islice(kind(table, Order(5, BATCH, 1, 2)), 30)]
    rest = [b.x["x"] for b in islice(kind(table, Order(5, BATCH, 1, 2)).batches(step), 30 - step)]
    assert all(torch.equal(a, b) for a, b in zip(whole[step:], rest, strict=True))


def test_noise_in_memory_does_not_depend_on_the_number_of_ranks(made):
    config, _, store = made
    table = Table.of(store, N, 0.1, observed(config, store))
    alone = list(islice(ObservedBatches(table, Order(5, BATCH)), 20))
    ranks = [list(islice(ObservedBatches(table, Order(5, BATCH, r, 4)), 20)) for r in range(4)]
    for step, batch in enumerate(alone):
        together = torch.cat([rank[step].x["x"] for rank in ranks])
        assert torch.equal(batch.x["x"], together)


class After:
    """A stop that is asked for after some looks."""

    def __init__(self, looks):
        self.left = looks

    @property
    def reason(self):
        self.left -= 1
        return "test" if self.left < 0 else ""

    requested = property(lambda self: self.left < 0)

    def check(self, stage):
        pass


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_training_that_was_stopped_continues_bit_for_bit(file, tmp_path, in_memory):
    weights = []
    for looks in ((), (1, 2)):
        config = configure(file, "many", f"train.in_memory={str(in_memory).lower()}")
        run = RunDirectory(tmp_path / f"run{len(looks)}")
        simulate(config, run)
        for look in looks:
            with pytest.raises(Stopped):
                train(config, run, stop=After(look))
        result = train(config, run, stop=Stop())
        weights.append((result.directory / "posterior" / "weights.pt").read_bytes())
    assert weights[0] == weights[1]


def test_evaluation_observes_each_test_simulation_once(made):
    config, run, store = made
    test = Store.open(run.store("test"))
    observation = observed(config, test)
    ids, _, latent, _ = to_numpy(test)
    sets = TestSimulations.read(test, 20, {"x": (2,)}, observation)
    expected = observation(latent, ids)["x"]
    np.testing.assert_array_equal(sets.inputs["x"], expected)
    np.testing.assert_array_equal([one["x"] for one in sets.x], expected)
    train_noise = observed(config, store)(latent, ids)["x"]
    assert not (train_noise == expected).any()  # another stream
    with pytest.raises(UsageError, match=r"have x \(2,\), the posterior needs x \(5,\)"):
        TestSimulations.read(test, 20, {"x": (5,)}, observation)


def test_an_export_has_the_latent_outputs_and_on_request_the_observed(made, tmp_path):
    config, _, store = made
    observation = observed(config, store)
    plain = np.load(export(store, tmp_path / "a.npz"))
    assert {"x/mean", "x/dear"} < set(plain.files)
    assert "x/observed_x" not in plain.files
    both = np.load(export(store, tmp_path / "b.npz", observe=observation))
    ids, _, latent, _ = to_numpy(store)
    np.testing.assert_array_equal(both["x/observed_x"], observation(latent, ids)["x"])


def test_an_augmentation_changes_training_rows_alone(file, tmp_path):
    config = configure(file, "many", f"train.augmentation={file}:brighter")
    run = RunDirectory(tmp_path / "run")
    store = simulate(config, run)
    training = Training(config, run)
    assert training.key != Training(configure(file, "many"), run).key
    assert training.table.validation_batch().x["x"].max() < 10
    assert training.table.sample().x["x"].max() < 10
    batches = ObservedBatches(training.table, Order(5, BATCH))
    first = [next(iter(batches.batches(epoch * batches.steps))).x["x"] for epoch in (0, 1)]
    for x in first:
        assert 20 < x.mean() < 80
    assert store.schema.arrays["mean"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train.augmentation=model.py", "write 'file.py:name'"),
        ("train.augmentation=FILE:nothing", "nothing is called 'nothing'"),
        ("train.augmentation=FILE:IMAGES", "must be a function"),
    ],
)
def test_an_augmentation_that_is_not_there_is_refused(file, word, says):
    config = configure(file, "many", word.replace("FILE", str(file)))
    assert any(says in problem for problem in problems(config, stages=False))


def test_an_augmentation_must_keep_shapes(file, tmp_path):
    config = configure(file, "many", f"train.augmentation={file}:cut")
    run = RunDirectory(tmp_path / "run")
    simulate(config, run)
    with pytest.raises(UsageError, match=r"must keep those of the outputs"):
        train(config, run, stop=Stop())


def test_a_noise_model_that_gives_nan_is_refused(file, tmp_path):
    config = configure(file, "broken")
    run = RunDirectory(tmp_path / "run")
    simulate(config, run)
    with pytest.raises(UsageError, match="observed output 'x' holds NaN"):
        Training(config, run)


def test_observed_shapes_must_agree_between_rows():
    observe = Observe("mine", lambda latent, rng: latent["x"][: int(latent["n"])], batched=False)
    latent = {"x": np.ones((2, 3)), "n": np.array([1, 2])}
    with pytest.raises(TypeError, match="other shapes in other rows"):
        observe(latent, np.arange(2, dtype=np.uint64))


# --- a prior that is a data set ------------------------------------------------------------------


def test_a_simulation_names_its_row_and_its_digest_is_the_same_for_any_blocks(file, tmp_path):
    config = configure(file, "images")
    store = simulate(config, RunDirectory(tmp_path / "a"))
    _, theta, x, _ = to_numpy(store)
    data = simulator_of(config).prior
    np.testing.assert_array_equal(theta, data.data.reshape(400, -1)[x["prior_row"]])
    assert len(set(x["prior_row"])) == N
    test = to_numpy(Store.open(RunDirectory(tmp_path / "a").store("test")))[2]["prior_row"]
    assert not set(test) & set(x["prior_row"])
    simulation = spec_of(config, "train")
    alone = simulation.run(np.array([131]))
    assert alone.x["prior_row"][0] == x["prior_row"][131]
    other = simulate(configure(file, "images", f"budget={N // 2}"), RunDirectory(tmp_path / "b"))
    assert other.digest(N // 2) == store.digest(N // 2)


def test_the_number_of_the_row_is_nothing_to_learn_from(file, tmp_path):
    config, run = configure(file, "images"), RunDirectory(tmp_path / "run")
    simulate(config, run)
    training = Training(config, run)
    assert training.table.shapes == {"x": (8, 9)}
    result = train(config, run, stop=Stop())
    from pipeline.results import Results

    posterior = Results(run, result.key).load()
    assert posterior.parameter_shape == (8, 9)
    assert posterior.x_shapes == {"x": (8, 9)}
    standard = posterior.module.transform.standard
    assert len(standard.scale.unique()) == len(standard.mean.unique()) == 1
    assert torch.isfinite(posterior.sample({"x": np.zeros((2, 8, 9))}, 3, seed=0)).all()
    with pytest.raises(ValueError, match=r"shape \(2, 9, 9\); valid is \(B, 8, 9\)"):
        posterior.sample({"x": np.zeros((2, 9, 9))}, 3)
    measured = evaluate(config, run, stop=Stop())["metrics"]
    assert 0 < measured["rmse"]["mean"] < 10


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["budget=351"], "budget=351: the prior is a data set with 350 rows for train"),
        (["test=51"], "test=51: the prior is a data set with 50 rows for test"),
        (["design=sobol"], "design=sobol needs a prior with quantiles"),
        (["train.prior_weights=true"], "needs a prior with quantiles.*a data set of 400 rows"),
        (["estimator.arguments.bounds=probit"], "the prior is a data set; valid: reflect, clip"),
    ],
)
def test_what_a_data_set_cannot_be_is_said(file, words, says):
    import re

    found = problems(configure(file, "images", *words), stages=False)
    assert any(re.search(says, problem) for problem in found), found
    assert not problems(configure(file, "images"), stages=False)


def test_abc_and_weights_of_draws_need_a_density(file, tmp_path):
    from pipeline.abc.smc import abc_smc
    from pipeline.infer.reweight import reweighted

    config, run = configure(file, "images"), RunDirectory(tmp_path / "run")
    configuration.save(config, run)
    x = {"x": np.zeros((1, 8, 9))}
    with pytest.raises(UsageError, match=r"the prior is a data set of 400 rows"):
        reweighted(run, None, x, x, 2, None, 0)
    with pytest.raises(UsageError, match=r"the prior is a data set of 400 rows"):
        abc_smc(simulator_of(config), {"x": np.zeros((8, 9))}, tmp_path / "abc")


def test_a_data_set_of_a_configuration_is_found_from_its_folder(tmp_path, file):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(30, 2)))
    values = configure(file, "single").plain() | {
        "prior": {"name": "data", "path": "rows.npy", "names": ["a", "b"]}
    }
    (tmp_path / "c.yml").write_text(configuration.text(values))
    config = configuration.build(configuration.read(tmp_path / "c.yml"))
    assert config.prior["path"] == str(tmp_path / "rows.npy")
    prior = simulator_of(config).prior
    assert prior.available(0) == 27
